//! Who holds a port of this host. Linux: from `/proc/net/tcp*` and the file descriptors of processes.

use std::{fs, net::TcpListener, path::Path, time::Duration};

/// `None` when the port is free, otherwise a sentence with whoever holds it, as far as the system shows that.
///
/// A port that was just given up can still be held for a moment by a child that is between fork and exec, which shows
/// itself to nobody; so a port without a holder that can be named is looked at again.
pub(crate) fn taken(host: &str, port: u16) -> Option<String> {
    let mut looks = 0;
    loop {
        match TcpListener::bind((host, port)) {
            Ok(_) => return None,
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
            Err(error) => return Some(format!("port {port} of {host} cannot be listened on: {error}")),
        }
        looks += 1;
        match holder(port) {
            Some(holder) => return Some(format!("port {port} of {host} is in use by {holder}")),
            None if looks == 10 => {
                return Some(format!("port {port} of {host} is in use by a process that this user cannot see"));
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn holder(port: u16) -> Option<String> {
    let inodes = listeners(port);
    let wanted: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let mut found: Vec<String> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit())))
        .filter(|entry| has_descriptor(&entry.path(), &wanted))
        .map(|entry| describe(&entry.path()))
        .collect();
    found.sort();
    (!found.is_empty()).then(|| found.join(", "))
}

/// Inodes of the sockets that listen on the port, of any address.
fn listeners(port: u16) -> Vec<String> {
    let wanted = format!(":{port:04X}");
    let mut inodes = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = fs::read_to_string(table).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // Columns: sl, local address, remote address, state (0A is LISTEN), …, inode.
            if let (Some(local), Some(&"0A"), Some(inode)) = (fields.get(1), fields.get(3), fields.get(9))
                && local.ends_with(&wanted)
            {
                inodes.push((*inode).to_owned());
            }
        }
    }
    inodes
}

fn has_descriptor(process: &Path, sockets: &[String]) -> bool {
    fs::read_dir(process.join("fd")).into_iter().flatten().flatten().any(|descriptor| {
        fs::read_link(descriptor.path())
            .is_ok_and(|link| link.to_str().is_some_and(|link| sockets.iter().any(|socket| socket == link)))
    })
}

fn describe(process: &Path) -> String {
    let pid = process.file_name().and_then(|name| name.to_str()).unwrap_or("?");
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    let environment = fs::read(process.join("environ")).unwrap_or_default();
    let place = environment
        .split(|byte| *byte == 0)
        .find_map(|variable| variable.strip_prefix(b"SEALIFT_PLACE="))
        .map(|place| format!(", {}", String::from_utf8_lossy(place)))
        .unwrap_or_default();
    format!("process {pid} ({}{place})", name.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_named() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let sentence = taken("127.0.0.1", port).unwrap();
        assert!(sentence.contains(&format!("process {}", std::process::id())), "{sentence}");
        drop(listener);
        assert_eq!(taken("127.0.0.1", port), None);
    }
}
