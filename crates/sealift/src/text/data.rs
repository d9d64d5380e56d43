//! Data sets and models in tables.

use super::{Cell, Paint, Style, Table, at, bytes, explain};
use domain::model::ModelRecord;
use engine::data::{Added, CheckedOut, DataRevision, DataStatus, PushedData, VerifiedData};

/// `data add`.
pub(crate) fn added(all: &[Added], paint: &Paint) -> String {
    let mut table = Table::new(["DATA", "STATE", "SNAPSHOT", "SIZE", "FILES", "NEW", "POINTER"]);
    for data in all {
        let state = if data.changed { Cell::new("added", Style::Good) } else { Cell::new("unchanged", Style::Dim) };
        let (size, new) = (bytes(data.bytes), bytes(data.new_bytes));
        table.row([
            data.name.clone().into(),
            state,
            data.digest.short().into(),
            size.into(),
            data.files.to_string().into(),
            new.into(),
            data.pointer_file.clone().into(),
        ]);
    }
    let files: Vec<&str> = all.iter().filter(|data| data.changed).map(|data| data.pointer_file.as_str()).collect();
    let next =
        if files.is_empty() { String::new() } else { format!("\n  next: git add {} && git commit", files.join(" ")) };
    format!("{}{next}", table.render("", paint))
}

/// `data status`.
pub(crate) fn status(all: &[DataStatus], paint: &Paint) -> String {
    let mut table = Table::new(["DATA", "STATE", "SNAPSHOT", "SIZE", "FILES", "STORE", "CACHE", "PATH"]);
    for data in all {
        let style = if data.state == "clean" { Style::Good } else { Style::Warning };
        let pushed = match data.pushed {
            Some(true) => "complete",
            Some(false) => "not pushed",
            None => "unknown",
        };
        table.row([
            data.name.clone().into(),
            Cell::new(data.state, style),
            data.digest.map_or_else(|| "-".to_owned(), |digest| digest.short()).into(),
            bytes(data.bytes).into(),
            data.files.to_string().into(),
            pushed.into(),
            if data.cached { "complete" } else { "partial" }.into(),
            data.path.clone().into(),
        ]);
    }
    let mut text = table.render("", paint);
    for data in all {
        for (word, files) in [("new", &data.added), ("gone", &data.removed), ("changed", &data.changed)] {
            for file in files.iter().take(10) {
                text.push_str(&format!("\n  {word} {}/{file}", data.path));
            }
            if files.len() > 10 {
                text.push_str(&format!("\n  {word} and {} more", files.len() - 10));
            }
        }
    }
    text
}

/// `data push`.
pub(crate) fn pushed(all: &[PushedData], paint: &Paint) -> String {
    let mut table = Table::new(["DATA", "STATE", "SNAPSHOT", "SENT", "PACKS"]);
    for data in all {
        let state = if data.already { "complete before" } else { "pushed" };
        let digest = data.digest.short();
        table.row([
            data.name.clone().into(),
            Cell::new(state, Style::Good),
            digest.into(),
            bytes(data.bytes).into(),
            data.packs.to_string().into(),
        ]);
    }
    table.render("", paint)
}

/// `data pull` and `data checkout`.
pub(crate) fn checked_out(all: &[CheckedOut], paint: &Paint) -> String {
    let mut table = Table::new(["DATA", "SNAPSHOT", "WRITTEN", "UNCHANGED", "REMOVED", "PATH"]);
    for data in all {
        table.row([
            data.name.clone().into(),
            data.digest.short().into(),
            data.written.to_string().into(),
            data.unchanged.to_string().into(),
            data.removed.to_string().into(),
            data.path.clone().into(),
        ]);
    }
    table.render("", paint)
}

/// `data verify`.
pub(crate) fn verified(all: &[VerifiedData], paint: &Paint) -> String {
    let mut table = Table::new(["DATA", "RESULT", "SNAPSHOT", "FILES", "HASHED", "IN"]);
    for data in all {
        table.row([
            data.name.clone().into(),
            Cell::new("verified", Style::Good),
            data.digest.short().into(),
            data.files.to_string().into(),
            bytes(data.bytes).into(),
            data.place.into(),
        ]);
    }
    table.render("", paint)
}

/// `data log`.
pub(crate) fn log(all: &[DataRevision], paint: &Paint) -> String {
    if all.is_empty() {
        return "no commit has touched its pointer yet".to_owned();
    }
    let mut table = Table::new(["COMMIT", "WHEN", "SNAPSHOT", "SIZE", "FILES", "WHO", "WHAT"]);
    for revision in all {
        table.row([
            revision.commit.chars().take(12).collect::<String>().into(),
            at(revision.committed).into(),
            revision.digest.map_or_else(|| "removed".to_owned(), |digest| digest.short()).into(),
            bytes(revision.bytes).into(),
            revision.files.to_string().into(),
            revision.author.clone().into(),
            super::plain(&revision.subject).into(),
        ]);
    }
    table.render("", paint)
}

/// `model list`.
pub(crate) fn models(all: &[ModelRecord], paint: &Paint) -> String {
    if all.is_empty() {
        return "no model is registered yet".to_owned();
    }
    let mut table = Table::new(["MODEL", "DIGEST", "SIZE", "REGISTERED", "METRICS"]);
    for record in all {
        table.row([
            record.reference().into(),
            record.digest.short().into(),
            bytes(record.bytes).into(),
            at(record.registered).into(),
            explain::metrics(&record.metrics).into(),
        ]);
    }
    table.render("", paint)
}

/// `model show`.
pub(crate) fn model(record: &ModelRecord) -> String {
    let mut fields = super::Fields::new(10);
    let lineage = &record.lineage;
    fields.add("digest", format!("{} ({}, {})", record.digest, bytes(record.bytes), record.file));
    fields.add("registered", at(record.registered));
    fields.list("metric", record.metrics.iter().map(|(name, value)| format!("{name} = {}", explain::number(*value))));
    if let Some(commit) = &lineage.commit {
        let dirty = if lineage.dirty { " with uncommitted changes" } else { "" };
        fields.add("commit", format!("{commit}{dirty}"));
    }
    fields.list("data", lineage.data.iter().map(|(name, digest)| format!("{name} {digest}")));
    if let Some(command) = &lineage.command {
        fields.add("command", command.join(" "));
    }
    if let Some(config) = &lineage.config {
        fields.add("config", config.to_string());
    }
    format!("{}\n{}", record.reference(), fields.finish())
}
