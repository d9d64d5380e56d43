//! The build context on its way to the engine.

use crate::{
    body::{self, Writing},
    context::Context,
    error::{Error, Result, count, joined},
};
use bytes::Bytes;
use domain::{Events, event::Unit};
use futures::Stream;
use std::{
    io::{self, Write as _},
    sync::{Arc, atomic::AtomicU64},
};

/// A context that is being sent.
pub(super) struct Sending(Writing<Error>);

impl Sending {
    /// How the sending ended, once the build has.
    pub(super) async fn end(self) -> Result<()> {
        joined("send the build context from", self.0.end().await)?
    }
}

/// The context as a request body, and the thread that fills it. `moved` counts the pieces that the engine took.
pub(super) fn send(
    context: Arc<Context>,
    events: &Events,
    moved: Arc<AtomicU64>,
) -> (impl Stream<Item = io::Result<Bytes>> + Send + 'static, Sending) {
    let task = events.task("send the build context", Some(context.bytes).filter(|bytes| *bytes > 0), Unit::Bytes);
    let (body, writing) = body::written(moved, move |channel| {
        context.write(&mut *channel, &task)?;
        channel.flush().map_err(Error::file("send", &context.root))?;
        task.finish(count(context.entries.len() as u64, "entry", "entries"));
        Ok(())
    });
    (body, Sending(writing))
}
