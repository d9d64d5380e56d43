//! Ports that no other project has.
//!
//! They lie below the range that the system gives to outgoing connections, so none is taken by chance between its choice
//! and its use; a locked file per port keeps other test programs away for as long as the port is held.

use std::{
    fs::{self, File},
    net::TcpListener,
    sync::atomic::{AtomicU16, Ordering},
};

const FIRST: u16 = 10_000;
const COUNT: u16 = 20_000;

/// A port that is ours until this is dropped.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) number: u16,
    _lock: File,
}

/// Takes a free port.
pub(crate) fn take() -> Port {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let folder = std::env::temp_dir().join(format!("sealift-e2e-ports-{}", rustix::process::getuid().as_raw()));
    fs::create_dir_all(&folder).expect("the folder of port locks is made");
    // Where this program begins is a matter of its pid, so that two of them seldom ask for the same ports.
    let start = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap_or_default();
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let number = FIRST + (u32::from(start) * 37 + u32::from(step)).rem_euclid(u32::from(COUNT)) as u16;
        let Ok(lock) = File::options().create(true).append(true).open(folder.join(number.to_string())) else {
            continue;
        };
        if lock.try_lock().is_ok() && TcpListener::bind(("0.0.0.0", number)).is_ok() {
            return Port { number, _lock: lock };
        }
    }
    panic!("no port from {FIRST} on is free");
}
