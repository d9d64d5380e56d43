//! Data sets and models in tables.

use super::{Cell, Paint, Style, Table, at, bytes, count, explain};
use domain::model::ModelRecord;
use engine::{
    collect::{Collected, Collection},
    data::{Added, CheckedOut, DataDiff, DataRevision, DataStatus, PushedData, VerifiedData},
};

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

/// `data diff`.
pub(crate) fn diff(diff: &DataDiff) -> String {
    let short = |digest: Option<domain::Digest>| digest.map_or_else(|| "nothing".to_owned(), |digest| digest.short());
    let versions = format!("{} ({}) and {} ({})", diff.from, short(diff.old), diff.to, short(diff.new));
    let name = &diff.name;
    match (diff.old, diff.new) {
        (Some(old), Some(new)) if old == new => return format!("{name}: {versions} are the same"),
        (None, _) => return format!("{name} is new: it is not in {}", diff.from),
        (_, None) => return format!("{name} is gone: it is not in {}", diff.to),
        _ => {}
    }
    let counts = [("new", &diff.added), ("gone", &diff.removed), ("changed", &diff.changed)];
    let sum = counts.map(|(word, files)| format!("{} {word}", files.len())).join(", ");
    let mut text = format!("{name}: between {versions} {sum}");
    for (word, files) in counts {
        files.iter().for_each(|file| text.push_str(&format!("\n  {word:<7} {file}")));
    }
    text
}

/// How many objects of a plan are worth reading.
const SHOWN: usize = 20;

/// `data gc`: what stays and what goes, before anything is removed.
pub(crate) fn planned(collection: &Collection, paint: &Paint) -> String {
    let (roots, plan) = (&collection.roots, &collection.plan);
    let mut text = format!(
        "{}: keeps {}, {} (needed by {}: {}; by git's history: {}; by the work tree: {})",
        collection.place,
        count(plan.kept_snapshots, "snapshot"),
        bytes(plan.kept_bytes),
        count(roots.releases as u64, "release"),
        roots.of_releases,
        roots.of_history,
        roots.of_work_tree
    );
    if plan.young.objects > 0 {
        text.push_str(&format!(
            "\n  {}, {}, not needed but younger than {}",
            count(plan.young.objects, "object"),
            bytes(plan.young.bytes),
            domain::config::duration::format(&std::time::Duration::from_secs(plan.grace_seconds))
        ));
    }
    if plan.remove.is_empty() {
        return format!("{text}\nnothing to remove");
    }
    let what = format!("{}, {}", count(plan.remove.len() as u64, "object"), bytes(plan.remove_bytes));
    text.push_str(&format!("\nto remove: {what}:\n"));
    let mut table = Table::new(["OBJECT", "SIZE", "WHY"]);
    for object in plan.remove.iter().take(SHOWN) {
        table.row([object.key.clone().into(), bytes(object.size).into(), object.why.into()]);
    }
    text.push_str(&table.render("  ", paint));
    if plan.remove.len() > SHOWN {
        text.push_str(&format!("\n  and {} more (all of them with --format json)", plan.remove.len() - SHOWN));
    }
    text
}

/// `data gc --yes`: what went.
pub(crate) fn collected(collected: &Collected) -> String {
    let (removed, spared) = (&collected.removed, &collected.spared);
    let mut text = format!("removed {}, {}", count(removed.objects, "object"), bytes(removed.bytes));
    if spared.objects > 0 {
        text.push_str(&format!("; {} came to be needed meanwhile and stay", count(spared.objects, "object")));
    }
    text
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
