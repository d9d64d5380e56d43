//! Data from and to DVC in tables.

use super::{Cell, Paint, Style, Table, bytes, count};
use engine::dvc::{ExportedData, ImportedData, Sources};

/// `data import-dvc`.
pub(crate) fn imported(all: &[ImportedData], paint: &Paint) -> String {
    let mut table = Table::new(["DATA", "STATE", "SNAPSHOT", "SIZE", "FILES", "FROM", "POINTER"]);
    for data in all {
        let state = if data.changed { Cell::new("imported", Style::Good) } else { Cell::new("unchanged", Style::Dim) };
        table.row([
            data.name.clone().into(),
            state,
            data.digest.short().into(),
            bytes(data.bytes).into(),
            data.files.to_string().into(),
            from(&data.from).into(),
            data.pointer_file.clone().into(),
        ]);
    }
    let mut text = table.render("", paint);
    let changed: Vec<&str> = all.iter().filter(|data| data.changed).map(|data| data.pointer_file.as_str()).collect();
    if !changed.is_empty() {
        let names: Vec<&str> = all.iter().filter(|data| data.changed).map(|data| data.name.as_str()).collect();
        let (files, names) = (changed.join(" "), names.join(" "));
        text.push_str(&format!("\n  next: git add {files} && git commit && sealift data push {names}"));
    }
    let absent: Vec<&str> = all.iter().filter(|data| !data.in_place).map(|data| data.path.as_str()).collect();
    if !absent.is_empty() {
        text.push_str(&format!("\n  to write the files: sealift data checkout {}", absent.join(" ")));
    }
    text
}

/// `3 workspace, 1 remote`.
fn from(from: &Sources) -> String {
    let places = [
        (from.workspace, "workspace"),
        (from.cache, "DVC's cache"),
        (from.earlier, "earlier import"),
        (from.remote, "remote"),
    ];
    let there = places.iter().filter(|(files, _)| *files > 0);
    let words: Vec<String> = match there.clone().count() {
        1 => there.map(|(_, place)| (*place).to_owned()).collect(),
        _ => there.map(|(files, place)| format!("{files} {place}")).collect(),
    };
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
}

/// `data export-dvc`.
pub(crate) fn exported(all: &[ExportedData], paint: &Paint) -> String {
    let mut table = Table::new(["DATA", "STATE", "MD5", "SIZE", "FILES", "SENT", "REMOTE"]);
    for data in all {
        let state = if data.sent == 0 { "complete before" } else { "exported" };
        let sent = match data.sent {
            0 => "-".to_owned(),
            objects => format!("{}, {}", count(objects, "object"), bytes(data.sent_bytes)),
        };
        table.row([
            data.name.clone().into(),
            Cell::new(state, Style::Good),
            data.md5.clone().into(),
            bytes(data.bytes).into(),
            data.files.to_string().into(),
            sent.into(),
            data.remote.clone().into(),
        ]);
    }
    let mut text = table.render("", paint);
    for data in all.iter().filter(|data| data.healed > 0) {
        text.push_str(&format!(
            "\n  {}: {} of the remote damaged, sent again",
            data.path,
            count(data.healed, "object")
        ));
    }
    let changed = all.iter().filter(|data| data.changed).map(|data| data.file.as_str());
    let mut files: Vec<&str> = changed.chain(all.iter().filter_map(|data| data.saved.as_deref())).collect();
    files.dedup();
    if !files.is_empty() {
        text.push_str(&format!("\n  next: git add {} && git commit", files.join(" ")));
    }
    if let Some(data) = all.iter().find(|data| !data.is_default) {
        text.push_str(&format!(
            "\n  a plain `dvc pull` asks another remote than {}: name it (dvc pull --remote NAME), or make it the default",
            data.remote
        ));
    }
    text
}
