//! An image to several repositories: everything by digest everywhere, then the tags.

use super::{
    Access, Destination, Pushed, TOGETHER,
    content::{Content, Document},
    fail, manifests,
    reference::{Repository, is_tag},
    session::{Purpose, Session},
    upload::{self, Fate, Source},
};
use crate::{
    error::{Error, Result, count, joined},
    layout::blobs_dir,
};
use domain::{Class, Digest, Events, event::Unit};
use futures::{StreamExt, TryStreamExt};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// [`super::publish`] with credentials from where it is told.
pub(crate) async fn publish_with(
    layout: &Path,
    to: &[Destination],
    tags: &[String],
    events: &Events,
    access: &Access,
) -> Result<Vec<Pushed>> {
    if let Some(bad) = tags.iter().find(|tag| !is_tag(tag)) {
        return Err(Error::bad(format!("{bad:?} cannot be a tag")));
    }
    let owned = layout.to_owned();
    let read = tokio::task::spawn_blocking(move || Content::of_layout(&owned)).await;
    let content = joined("read the layout", read)??;
    let root = content.root().ok_or_else(|| Error::damaged(layout.display(), "it holds no image"))?;
    let mut sessions = Vec::new();
    for destination in to {
        let sources = sources(destination, to, &content)?;
        sessions.push(Session::open(destination, Purpose::Write, sources, access).await?);
    }
    for session in &sessions {
        session.allow(0);
        check_tags_with(session, tags, &root.digest).await?;
    }
    let mut pushed = Vec::new();
    for session in &sessions {
        session.allow(content.bytes());
        pushed.push(push_content(session, layout, &content, root, events).await?);
    }
    // The others may have taken long.
    sessions.iter().for_each(|session| session.allow(0));
    let (versions, moving): (Vec<&String>, Vec<&String>) = tags.iter().partition(|tag| is_version(tag));
    for tag in versions.into_iter().chain(moving) {
        for session in &sessions {
            put_tag(session, tag, root).await?;
        }
    }
    for session in &sessions {
        let tagged = if tags.is_empty() { String::new() } else { format!(" as {}", tags.join(", ")) };
        events.note(format!("pushed {}@{}{tagged}", session.name, root.digest));
    }
    Ok(pushed)
}

/// Other repositories of the same registry that may have some of the blobs: that of the image below, and the other destinations.
fn sources(destination: &Destination, all: &[Destination], content: &Content) -> Result<Vec<String>> {
    let own = Repository::parse(&destination.repository)?;
    let mut paths = Vec::new();
    // A base that is named in a way that we do not understand is one that nothing is mounted from.
    let base = content.base_name().and_then(|name| Repository::parse(name).ok());
    let others = all.iter().filter_map(|other| Repository::parse(&other.repository).ok());
    for other in base.into_iter().chain(others) {
        if other.host == own.host && other.path != own.path && !paths.contains(&other.path) {
            paths.push(other.path);
        }
    }
    Ok(paths)
}

async fn push_content(
    session: &Session,
    layout: &Path,
    content: &Content,
    root: &Document,
    events: &Events,
) -> Result<Pushed> {
    let task = Arc::new(events.task(format!("push {}", session.name), Some(content.bytes()), Unit::Bytes));
    let sent = Arc::new(AtomicU64::new(0));
    let sending = content.blobs.iter().map(|blob| {
        let source = Arc::new(Source::new(blob.digest, blob.size, blobs_dir(layout).join(blob.digest.hex())));
        let (task, sent) = (task.clone(), sent.clone());
        async move { upload::put(session, &source, &sent, Some(&task)).await }
    });
    let fates: Vec<Fate> = futures::stream::iter(sending).buffer_unordered(TOGETHER).try_collect().await?;
    let number = |fate: Fate| fates.iter().filter(|one| **one == fate).count() as u64;
    for document in &content.documents {
        let reference = document.digest.to_string();
        if !manifests::is_there(session, &document.digest).await? {
            manifests::put(session, &reference, &document.bytes, &document.media_type).await?;
            manifests::confirm(session, &reference, &document.digest).await?;
        }
    }
    let pushed = Pushed {
        digest: root.digest,
        blobs_sent: number(Fate::Sent),
        blobs_there: number(Fate::There),
        mounted: number(Fate::Mounted),
        bytes_sent: sent.load(Ordering::Relaxed),
    };
    if let Some(task) = Arc::into_inner(task) {
        let mounted = if pushed.mounted == 0 { String::new() } else { format!(", {} mounted", pushed.mounted) };
        let sent = count(pushed.blobs_sent, "blob", "blobs");
        task.finish(format!("{sent} sent{mounted}, {} there already", pushed.blobs_there));
    }
    Ok(pushed)
}

/// Points a tag to the image, unless it does so already.
async fn put_tag(session: &Session, tag: &str, root: &Document) -> Result<()> {
    match manifests::head(session, tag).await? {
        Some(is) if is == root.digest => return Ok(()),
        Some(is) if is_version(tag) => {
            let cause = format!(
                "it was written by somebody else meanwhile, as {is}; the image {} is there by digest",
                root.digest
            );
            return Err(fail("write the tag", &session.shown(tag), cause, Class::Integrity));
        }
        _ => {}
    }
    manifests::put(session, tag, &root.bytes, &root.media_type).await?;
    manifests::confirm(session, tag, &root.digest).await
}

/// [`super::check_tags`] over a session.
pub(crate) async fn check_tags_with(session: &Session, tags: &[String], wanted: &Digest) -> Result<()> {
    for tag in tags.iter().filter(|tag| is_version(tag)) {
        if let Some(is) = manifests::head(session, tag).await?.filter(|is| is != wanted) {
            return Err(Error::TagTaken {
                repository: session.name.clone(),
                tag: tag.clone(),
                is: is.to_string(),
                wanted: *wanted,
            });
        }
    }
    Ok(())
}

/// Whether a tag names one full version, which never moves. `+` is no letter of a tag; `_` stands for it.
fn is_version(tag: &str) -> bool {
    semver::Version::parse(&tag.strip_prefix('v').unwrap_or(tag).replacen('_', "+", 1)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_versions_never_move_and_other_tags_do() {
        for tag in ["1.2.0", "v1.2.0", "1.2.0-rc.1", "1.2.0_build.5"] {
            assert!(is_version(tag), "{tag}");
        }
        for tag in ["1.2", "1", "latest", "v1", "main"] {
            assert!(!is_version(tag), "{tag}");
        }
    }
}
