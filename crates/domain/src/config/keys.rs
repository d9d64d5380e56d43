//! The keys that the configuration knows, section by section: what the reader accepts, what unknown keys are compared
//! with, and what a test looks for in `deploy/Sealift.example.toml`.

/// A section, and the keys that it knows.
pub(super) struct Keys {
    /// Where it stands; `*` is any name. Compared with the headers of the example by a test.
    #[cfg_attr(not(test), allow(dead_code))]
    pub(super) section: &'static str,
    /// Its keys.
    pub(super) keys: &'static [&'static str],
}

macro_rules! sections {
    ($($name:ident = $section:literal: $($key:literal)*;)*) => {
        $(pub(super) const $name: &Keys = &Keys { section: $section, keys: &[$($key),*] };)*
        /// Every section.
        #[cfg(test)]
        pub(super) const ALL: &[&Keys] = &[$($name),*];
    };
}

sections! {
    TOP = "": "project" "store" "signing" "component" "data" "model" "environment" "gate" "policy";
    PROJECT = "project": "name" "source";
    STORE = "store": "path" "bucket" "prefix" "endpoint" "region" "access_key" "secret_key";
    TRANSFER = "store": "upload_limit" "download_limit" "deadline" "stall_timeout" "remote";
    REMOTE = "store.remote.*": "path" "bucket" "prefix" "endpoint" "region" "access_key" "secret_key";
    SIGNING = "signing": "key" "private" "trusted";
    COMPONENT = "component.*": "path" "version_files" "changelog" "logic_version" "config_files" "data" "models" "owners"
        "contracts" "build" "image" "run" "smoke" "sbom";
    VERSION_FILE = "component.*": "path" "pattern";
    BUILD = "component.*.build": "builder" "prepare";
    BUILD_DOCKER = "component.*.build": "context" "dockerfile" "target" "args" "labels" "engine"
        "platforms" "secrets" "cache_from" "cache_to";
    BUILD_OCI = "component.*.build": "base" "files" "entrypoint" "cmd" "env" "user" "workdir" "labels" "platform"
        "platforms" "base_insecure" "ports";
    BUILD_NIX = "component.*.build": "installable" "output" "overrides" "rebuild" "nix" "options" "signing_key";
    BUILD_COMMAND = "component.*.build": "run" "env" "timeout" "oci_layout" "docker_archive" "artifacts";
    OCI_FILE = "component.*.build": "from" "to" "mode" "owner" "platform";
    IMAGE = "component.*.image": "repository" "repositories" "insecure" "tags" "attach";
    RUN = "component.*.run": "command" "port" "env" "secrets" "models" "configs" "health" "start_timeout" "stop_timeout"
        "memory" "pids" "relax";
    SMOKE = "component.*.smoke": "name" "method" "path" "headers" "body" "json" "status" "expect_headers" "expect_json"
        "timeout";
    EXPECTATION = "component.*.smoke": "between" "present" "equals";
    DATA = "data.*": "path";
    MODEL = "model.*": "file" "metrics" "config" "command" "data";
    ENVIRONMENT = "environment.*": "target" "strategy" "after" "gates" "on_warn" "evidence_max_age" "lease_ttl" "component";
    TARGET_PROCESS = "environment.*": "root" "host";
    TARGET_DOCKER = "environment.*": "engine" "host";
    ENVIRONMENT_COMPONENT = "environment.*.component.*": "port" "env" "secrets";
    GATE = "gate.*": "check";
    CHECK = "gate.*.check": "name" "kind" "count" "interval" "failure_limit";
    CHECK_VALUE = "gate.*.check": "warn_below" "crit_below" "warn_above" "crit_above" "relative" "required_samples" "max_age";
    CHECK_LOAD = "gate.*.check": "method" "path" "headers" "body" "json" "status" "timeout" "requests" "concurrency" "statistic";
    CHECK_REPORT = "gate.*.check": "path" "value" "samples" "created" "run" "timeout";
    CHECK_COMMAND = "gate.*.check": "run" "timeout";
    CHECK_SCAN = "gate.*.check": "format" "path" "run" "timeout" "max_age" "crit" "warn" "unknown" "subject" "allow";
    CHECK_IMAGE = "gate.*.check": "root" "setuid" "secrets" "max_size" "max_growth";
    POLICY = "policy": "data";
    POLICY_DATA = "policy.data": "branches" "tags" "grace";
    RELATIVE = "gate.*.check": "better" "warn_worse" "crit_worse";
}
