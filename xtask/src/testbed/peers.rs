//! A round trip through each client of S3 that Sealift is measured against.
//!
//! Where the run has no S3 server, only the version is asked for, and the table says so: no client is called proven
//! for what it was not made to do.

use super::{
    Part, Provided, Testbed,
    prove::{Bucket, SAID, same},
};
use crate::shell::{Outcome, capture};
use std::{fs, path::Path, process::Command};

pub(super) fn prove(one: &Provided, testbed: &Testbed) -> Outcome<String> {
    let word = if matches!(one.part, Part::Dvc) { "--version" } else { "version" };
    let version = capture(Command::new(&one.program).arg(word))?;
    let version = version.lines().next().unwrap_or_default().trim().to_owned();
    let server = Part::BUCKETS.into_iter().find_map(|part| Some((part, Bucket::of(testbed, part)?)));
    let Some((part, bucket)) = server else {
        return Ok(format!("{version}; no round trip, for there is no S3 server in this run"));
    };
    let home = testbed.scratch(&format!("{}-proof", one.part.name()))?;
    fs::write(home.join("hello"), SAID).map_err(|cause| format!("{}: {cause}", home.display()))?;
    let read = match one.part {
        Part::S5cmd => s5cmd(&one.program, &bucket, &home),
        Part::Rclone => rclone(&one.program, &bucket, &home),
        Part::Restic => restic(&one.program, &bucket, &home),
        Part::Dvc => dvc(&one.program, &bucket, &home),
        other => Err(format!("{} is no client of S3", other.name())),
    }?;
    same(read.trim_end()).map(|()| format!("{version}; written to {} and read", part.name()))
}

fn s5cmd(program: &Path, bucket: &Bucket, home: &Path) -> Outcome<String> {
    let object = format!("s3://{}/proof/s5cmd", bucket.name);
    let run = |args: &[&str]| {
        let mut command = bucket.client(program, home);
        capture(command.args(["--endpoint-url", &bucket.endpoint]).args(args))
    };
    run(&["cp", "hello", &object])?;
    run(&["cat", &object])
}

fn rclone(program: &Path, bucket: &Bucket, home: &Path) -> Outcome<String> {
    // A remote in the environment: no configuration file is read or written.
    let object = format!("proof:{}/proof/rclone", bucket.name);
    let run = |args: &[&str]| {
        let mut command = bucket.client(program, home);
        command.env("RCLONE_CONFIG", home.join("none.conf")).env("RCLONE_CONFIG_PROOF_TYPE", "s3");
        command.env("RCLONE_CONFIG_PROOF_PROVIDER", "Other").env("RCLONE_CONFIG_PROOF_ENV_AUTH", "true");
        command.env("RCLONE_CONFIG_PROOF_ENDPOINT", &bucket.endpoint);
        capture(command.args(args))
    };
    run(&["copyto", "hello", &object])?;
    run(&["cat", &object])
}

fn restic(program: &Path, bucket: &Bucket, home: &Path) -> Outcome<String> {
    let repository = format!("s3:{}/{}/proof-restic", bucket.endpoint, bucket.name);
    let run = |args: &[&str]| {
        let mut command = bucket.client(program, home);
        command.env("RESTIC_PASSWORD", "proof").args(["--no-cache", "--repo", &repository]);
        capture(command.args(args))
    };
    run(&["init"])?;
    run(&["backup", "hello"])?;
    run(&["check", "--read-data"])?;
    run(&["dump", "latest", "hello"])
}

fn dvc(program: &Path, bucket: &Bucket, home: &Path) -> Outcome<String> {
    let run = |args: &[&str]| capture(bucket.client(program, home).env("DVC_NO_ANALYTICS", "1").args(args));
    run(&["init", "--quiet", "--no-scm"])?;
    run(&["remote", "add", "--default", "proof", &format!("s3://{}/proof-dvc", bucket.name)])?;
    run(&["remote", "modify", "proof", "endpointurl", &bucket.endpoint])?;
    run(&["add", "--quiet", "hello"])?;
    run(&["push", "--quiet"])?;
    // What comes back can only come from the server.
    let (file, cache) = (home.join("hello"), home.join(".dvc/cache"));
    fs::remove_file(&file).and_then(|()| fs::remove_dir_all(&cache)).map_err(|cause| format!("{cache:?}: {cause}"))?;
    run(&["pull", "--quiet"])?;
    let script = "import boto3, sys\n\
                  s3 = boto3.client('s3', endpoint_url=sys.argv[1])\n\
                  s3.upload_file('hello', sys.argv[2], 'proof/boto3')\n\
                  print(s3.get_object(Bucket=sys.argv[2], Key='proof/boto3')['Body'].read().decode())\n";
    let mut python = bucket.client(&program.with_file_name("python"), home);
    capture(python.args(["-c", script, &bucket.endpoint, &bucket.name]))
}
