//! Taking the measurements of a gate: over HTTP, of reports, and of the release's own image.
//!
//! The image is fetched from the store, by digest and verified whole, at most once a run, and only when a check asks for it.

use super::Subjects;
use crate::{
    artifacts::{self, blocking},
    error::{Error, Result},
    releases::{self, Sealed},
    rollout::World,
};
use domain::{
    Digest, Name,
    gate::{Check, Gate, Measurement, Source},
    manifest::Image,
    scan::{self, PreviousImage},
};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// One run of gates against what serves.
pub(super) struct Examination<'a> {
    world: &'a World,
    subjects: &'a Subjects<'a>,
    sealed: &'a Sealed,
    url: &'a str,
    layouts: BTreeMap<Digest, PathBuf>,
    /// What the smoke requests came to, each time that a check sent them.
    pub(super) smoked: Vec<probe::SmokeReport>,
}

/// A file that a verdict stands on.
pub(super) struct Input {
    /// Which.
    pub(super) uri: String,
    /// SHA-256 of its bytes.
    pub(super) digest: Digest,
}

impl<'a> Examination<'a> {
    pub(super) fn new(world: &'a World, subjects: &'a Subjects<'a>, sealed: &'a Sealed, url: &'a str) -> Self {
        Self { world, subjects, sealed, url, layouts: BTreeMap::new(), smoked: Vec::new() }
    }

    /// Measures as often as the check asks for.
    pub(super) async fn measure(&mut self, check: &Check) -> Result<Vec<Measurement>> {
        let mut measurements = Vec::new();
        for round in 0..check.count.max(1) {
            if round > 0 {
                tokio::time::sleep(check.interval).await;
            }
            let stop = self.world.stop.clone();
            let measured = tokio::select! {
                measured = self.once(check) => measured?,
                () = stop.cancelled() => Measurement::Missing { why: "it was stopped by a signal".to_owned() },
            };
            measurements.push(measured);
        }
        Ok(measurements)
    }

    async fn once(&mut self, check: &Check) -> Result<Measurement> {
        let (world, manifest) = (self.world, &self.sealed.manifest);
        let now = || world.clock.now();
        match &check.source {
            Source::Image(_) => self.images().await,
            Source::Smoke => {
                let report = probe::smoke(self.url, &manifest.smoke, &world.events).await;
                let measurement = report.measurement(now());
                self.smoked.push(report);
                Ok(measurement)
            }
            source => {
                // A command that reads no image must not wait for one.
                let scans = matches!(source, Source::Scan(rules) if rules.run.is_some());
                let image = match manifest.image(&crate::platform()).filter(|_| scans) {
                    Some(image) => {
                        Some(probe::ImageOnHost { digest: image.manifest, layout: self.layout(&image.manifest).await? })
                    }
                    None => None,
                };
                let context = self.context(image);
                Ok(probe::measure(self.url, &context, source, &manifest.smoke, now, &world.events).await)
            }
        }
    }

    fn context(&self, image: Option<probe::ImageOnHost>) -> probe::Context {
        let manifest = &self.sealed.manifest;
        probe::Context {
            url: self.url.to_owned(),
            environment: self.subjects.environment.name.to_string(),
            component: self.subjects.component.to_string(),
            release: manifest.release.to_string(),
            repository: self.subjects.repository.to_owned(),
            image,
            identities: identities(manifest.image(&crate::platform())),
        }
    }

    /// Where an image of the release lies on this host.
    async fn layout(&mut self, manifest: &Digest) -> Result<PathBuf> {
        if let Some(layout) = self.layouts.get(manifest) {
            return Ok(layout.clone());
        }
        let (world, of) = (self.world, self.sealed.manifest.release.to_string());
        let layout = artifacts::fetch_image(&world.store, &world.cache, manifest, &of, &world.events).await?;
        self.layouts.insert(*manifest, layout.clone());
        Ok(layout)
    }

    /// What is in the release's images. One that cannot be read to its end is no evidence.
    async fn images(&mut self) -> Result<Measurement> {
        let mut inspections = Vec::new();
        for (platform, image) in &self.sealed.manifest.images {
            let layout = self.layout(&image.manifest).await?;
            match blocking(move || image::inspect(&layout, &image::Limits::default())).await? {
                Ok(found) => inspections.extend(found),
                Err(error) => {
                    let why = format!("the image for {platform} cannot be inspected: {}", with_causes(&error));
                    return Ok(Measurement::Missing { why });
                }
            }
        }
        Ok(Measurement::Images { inspections, previous: self.previous().await })
    }

    async fn previous(&self) -> PreviousImage {
        let Some(previous) = &self.sealed.manifest.previous else { return PreviousImage::None };
        match releases::read(&self.world.store, &self.world.trusted, &previous.release).await {
            Ok(sealed) if sealed.digest == previous.digest => PreviousImage::Known {
                release: previous.release.to_string(),
                bytes: sealed.manifest.images.into_iter().map(|(platform, image)| (platform, image.bytes)).collect(),
            },
            Ok(_) => PreviousImage::Unknown { why: format!("{} is another release than was sealed", previous.release) },
            Err(error) => PreviousImage::Unknown { why: with_causes(&error) },
        }
    }
}

/// What a report may call the image that serves here. An index is none of them: it does not say which of its images was looked at.
fn identities(image: Option<&Image>) -> Vec<Digest> {
    image.map(|image| [image.manifest, image.config]).into_iter().flatten().collect()
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}

/// The reports that measurements were read from.
pub(super) fn inputs(check: &Check, measurements: &[Measurement]) -> Vec<Input> {
    let Source::Scan(rules) = &check.source else { return Vec::new() };
    let digests = measurements.iter().filter_map(|measurement| match measurement {
        Measurement::Scan { digest, .. } => Some(*digest),
        _ => None,
    });
    digests.map(|digest| Input { uri: format!("urn:sealift:report:{}:{}", rules.format, rules.path), digest }).collect()
}

/// The gates as they are sealed into a release: with the allow-lists that their scans name, read from the repository.
///
/// A list that is not there, or not what it must be, is an error now, and not a gate that holds for ever later.
pub fn sealed(gates: &BTreeMap<Name, Gate>, repository: &Path) -> Result<BTreeMap<Name, Gate>> {
    let mut gates = gates.clone();
    for (name, gate) in &mut gates {
        for check in &mut gate.checks {
            if let Source::Scan(rules) = &mut check.source
                && let Some(path) = &rules.allow
            {
                rules.allowed = Some(allowed(&repository.join(path), path, name)?);
            }
        }
    }
    Ok(gates)
}

fn allowed(full: &Path, path: &str, gate: &Name) -> Result<Vec<scan::Allow>> {
    let mend = |message: String| Error::BadInput { message, next: Some(format!("mend {path}, then the same again")) };
    let length = match fs::metadata(full) {
        Ok(data) => data.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::NotFound {
                message: format!("the allow-list {path} of gate {gate} is not there"),
                next: Some(format!("write {path}, or remove `allow` from [[gate.{gate}.check]] in Sealift.toml")),
            });
        }
        Err(source) => return Err(Error::File { action: "read", path: full.to_owned(), source }),
    };
    if length > scan::allow::SIZE_LIMIT as u64 {
        return Err(mend(format!("the allow-list {path} of gate {gate} has {length} bytes")));
    }
    let text = fs::read_to_string(full).map_err(Error::file("read", full))?;
    scan::allow::read(&text).map_err(|error| mend(format!("the allow-list {path} of gate {gate} {error}")))
}
