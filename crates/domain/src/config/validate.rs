//! Stage 2: what needs more than one section. Every reference leads to something, no two workloads want one port, and
//! every environment says what it must.

use super::{Builder, Component, Config, Environment, Target, paths, reader::Reader};
use crate::{Name, gate::Source, names::Unknown};
use std::collections::{BTreeMap, BTreeSet};

/// Reports everything that is wrong between sections.
pub(super) fn check(config: &Config, reader: &Reader<'_>) {
    components(config, reader);
    models(config, reader);
    data_sets(config, reader);
    for environment in config.environments.values() {
        references_of_environment(config, environment, reader);
        runnables(config, environment, reader);
    }
    cycles(config, reader);
    ports(config, reader);
}

/// Reports those of `wanted` that are not `known`, each at its own place in the array `key`.
fn references<'a>(
    reader: &Reader<'_>,
    kind: &'static str,
    key: &str,
    wanted: &[Name],
    known: impl Iterator<Item = &'a Name> + Clone,
) {
    for name in wanted {
        if !known.clone().any(|known| known == name) {
            reader.absence(
                &reader.item(key, name.as_str()),
                Unknown::new(kind, name.as_str(), known.clone()).to_string(),
            );
        }
    }
}

fn components(config: &Config, reader: &Reader<'_>) {
    for (name, component) in &config.components {
        let path = reader.key(&["component", name.as_str()]);
        references(reader, "data set", &format!("{path}.data"), &component.data, config.data.keys());
        references(reader, "model", &format!("{path}.models"), &component.models, config.models.keys());
        run_section(component, &path, reader);
        if !component.registries.is_empty() && !component.build.builder.makes_image() {
            let word = component.build.builder.word();
            reader.problem(&format!("{path}.image"), format!("has no effect: builder \"{word}\" makes no image here"));
        }
    }
}

fn run_section(component: &Component, path: &str, reader: &Reader<'_>) {
    let Some(run) = &component.run else { return };
    for model in run.models.keys().filter(|model| !component.models.contains(model)) {
        let message = format!(
            "{}; name it in {path}.models",
            Unknown::new("model of this component", model.as_str(), &component.models)
        );
        reader.absence(&reader.key_below(&format!("{path}.run.models"), model.as_str()), message);
    }
    for file in run.configs.keys().filter(|file| !component.config_files.contains(file)) {
        let message = format!(
            "{}; name it in {path}.config_files",
            Unknown::new("configuration file", file, &component.config_files)
        );
        reader.absence(&reader.key_below(&format!("{path}.run.configs"), file), message);
    }
    placeholders(component, &run.env, &format!("{path}.run.env"), reader);
    if matches!(component.build.builder, Builder::None) && run.command.is_none() {
        reader.problem(
            &format!("{path}.run"),
            "there is nothing to run: the component has no builder, and run has no command",
        );
    }
}

/// `{model:NAME}` and `{config:PATH}` must be mounted, or nobody knows where they are.
fn placeholders(component: &Component, env: &BTreeMap<String, String>, path: &str, reader: &Reader<'_>) {
    let Some(run) = &component.run else { return };
    for (key, value) in env {
        for (kind, wanted) in placeholders_in(value) {
            let unknown = match kind {
                "model" if !run.models.contains_key(wanted) => {
                    Unknown::new("model in run.models", wanted, run.models.keys())
                }
                "config" if !run.configs.contains_key(wanted) => {
                    Unknown::new("file in run.configs", wanted, run.configs.keys())
                }
                _ => continue,
            };
            reader.absence(&reader.key_below(path, key), unknown.to_string());
        }
    }
}

fn placeholders_in(value: &str) -> Vec<(&str, &str)> {
    let inner = value.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(inner, _)| inner);
    inner.filter_map(|inner| inner.split_once(':')).filter(|(kind, _)| matches!(*kind, "model" | "config")).collect()
}

fn models(config: &Config, reader: &Reader<'_>) {
    for (name, model) in &config.models {
        let key = format!("{}.data", reader.key(&["model", name.as_str()]));
        references(reader, "data set", &key, &model.data, config.data.keys());
    }
}

/// Two data sets in one place would each take the other's files for its own.
fn data_sets(config: &Config, reader: &Reader<'_>) {
    let sets: Vec<(&Name, Vec<&str>)> = config.data.iter().map(|(name, set)| (name, paths::parts(&set.path))).collect();
    for (index, (name, path)) in sets.iter().enumerate() {
        for (other, other_path) in &sets[..index] {
            if !path.is_empty()
                && !other_path.is_empty()
                && (path.starts_with(other_path) || other_path.starts_with(path))
            {
                let key = format!("{}.path", reader.key(&["data", name.as_str()]));
                reader.problem(&key, format!("is the same place as data.{other}, or one is inside the other"));
            }
        }
    }
}

fn references_of_environment(config: &Config, environment: &Environment, reader: &Reader<'_>) {
    let path = reader.key(&["environment", environment.name.as_str()]);
    references(reader, "gate", &format!("{path}.gates"), &environment.gates, config.gates.keys());
    if let Some(after) = &environment.after
        && !config.environments.contains_key(after)
    {
        let unknown = Unknown::new(
            "environment",
            after.as_str(),
            config.environments.keys().filter(|name| **name != environment.name),
        );
        reader.absence(&format!("{path}.after"), unknown.to_string());
    }
    for (name, settings) in &environment.components {
        let key = reader.key_below(&format!("{path}.component"), name.as_str());
        match config.components.get(name) {
            None => {
                reader.absence(&key, Unknown::new("component", name.as_str(), config.components.keys()).to_string())
            }
            Some(component) if component.run.is_none() => {
                reader.absence(
                    &key,
                    format!("component {name} does not run: add [component.{name}.run], or remove this table"),
                );
            }
            Some(component) => placeholders(component, &settings.env, &format!("{key}.env"), reader),
        }
    }
}

/// What a component that runs needs of an environment.
fn runnables(config: &Config, environment: &Environment, reader: &Reader<'_>) {
    let path = reader.key(&["environment", environment.name.as_str()]);
    let asks_smoke = environment.gates.iter().find(|name| {
        let gate = config.gates.get(*name);
        gate.is_some_and(|gate| gate.checks.iter().any(|check| check.source == Source::Smoke))
    });
    for (name, component) in config.components.iter().filter(|(_, component)| component.run.is_some()) {
        if !environment.components.contains_key(name) {
            let message = format!(
                "says nothing of component {name}; add the lines [{path}.component.{name}] and port = {}",
                free_port(config)
            );
            reader.absence(&path, message);
        }
        if matches!((&component.build.builder, &environment.target), (Builder::None, Target::Docker { .. })) {
            reader.problem(&path, format!("target \"docker\" runs images, and component {name} has no builder"));
        }
        if let Some(gate) = asks_smoke
            && component.smoke.is_empty()
        {
            let message = format!(
                "gate {gate} asks for smoke requests, and component {name} has none; add [[component.{name}.smoke]]"
            );
            reader.absence(&format!("{path}.gates"), message);
        }
    }
}

/// A port that no environment uses yet.
fn free_port(config: &Config) -> u16 {
    let used: BTreeSet<u16> =
        config.environments.values().flat_map(|e| e.components.values()).map(|c| c.port).collect();
    (18_080..=u16::MAX).find(|port| !used.contains(port)).unwrap_or(18_080)
}

/// Each circle of `after` is reported once, at its first environment.
fn cycles(config: &Config, reader: &Reader<'_>) {
    let mut told: BTreeSet<&Name> = BTreeSet::new();
    for start in config.environments.keys() {
        let mut way = vec![start];
        let mut at = start;
        while let Some(next) = config.environments.get(at).and_then(|environment| environment.after.as_ref()) {
            if next == start {
                if told.is_disjoint(&way.iter().copied().collect()) {
                    let names: Vec<&str> = way.iter().copied().chain([start]).map(Name::as_str).collect();
                    let key = format!("{}.after", reader.key(&["environment", start.as_str()]));
                    reader.problem(
                        &key,
                        format!("goes in a circle: {}; nothing could ever be deployed", names.join(" after ")),
                    );
                }
                told.extend(way);
                break;
            }
            if way.contains(&next) || !config.environments.contains_key(next) {
                break;
            }
            way.push(next);
            at = next;
        }
    }
}

/// The machine that publishes the ports, as far as the text can tell.
fn machine(target: &Target) -> (&str, &str) {
    match target {
        Target::Docker { engine: Some(engine), host } if !engine.starts_with("unix:") => (engine, host),
        Target::Process { host, .. } | Target::Docker { host, .. } => ("", host),
    }
}

fn ports(config: &Config, reader: &Reader<'_>) {
    let mut taken: Vec<(&Environment, &Name, u16)> = Vec::new();
    for environment in config.environments.values() {
        for (component, settings) in environment.components.iter().filter(|(_, settings)| settings.port != 0) {
            taken.push((environment, component, settings.port));
        }
    }
    let key = |environment: &Environment, component: &Name| {
        let path = reader.key(&["environment", environment.name.as_str(), "component", component.as_str()]);
        format!("{path}.port")
    };
    taken.sort_by_key(|(environment, component, _)| reader.line_of(&key(environment, component)));
    for (index, (environment, component, port)) in taken.iter().enumerate() {
        let same = |(other, _, other_port): &&(&Environment, &Name, u16)| {
            let ((engine, host), (other_engine, other_host)) = (machine(&environment.target), machine(&other.target));
            let everywhere = |host: &str| matches!(host, "0.0.0.0" | "::");
            other_port == port
                && engine == other_engine
                && (host == other_host || everywhere(host) || everywhere(other_host))
        };
        if let Some((other, other_component, _)) = taken[..index].iter().find(same) {
            let line = reader.line_of(&key(other, other_component));
            let message = format!(
                "{port} is already the port of {other_component} in {} (line {line}), on the same host; take {}",
                other.name,
                free_port(config)
            );
            reader.problem(&key(environment, component), message);
        }
    }
}
