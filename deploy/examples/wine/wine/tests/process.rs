//! The service as a process: how it starts, answers on a kept-alive connection, drains and refuses to start.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const MODEL: &str = r#"{
  "format": 1, "version": "test", "algorithm": "by hand", "intercept": 6.0, "lowest": 3, "highest": 8,
  "features": [{ "name": "alcohol", "mean": 10.0, "deviation": 1.0 }], "terms": [{ "of": [0], "weight": 0.5 }]
}"#;

struct Service {
    child: Child,
    log: BufReader<std::process::ChildStderr>,
    address: String,
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended by itself, as most tests want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(model: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wine"));
    command.env_clear().env("MODEL_PATH", model).env("HOST", "127.0.0.1").env("PORT", "0").stderr(Stdio::piped());
    command
}

fn start() -> (Service, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("model.json");
    std::fs::write(&model, MODEL).unwrap();
    let mut child = command(&model).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    let address = line.split("http://").nth(1).unwrap_or_else(|| panic!("no address in {line:?}"));
    let address = address.split(' ').next().unwrap().to_owned();
    (Service { child, log, address }, directory)
}

fn connect(service: &Service) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(&service.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    BufReader::new(stream)
}

fn read_answer(stream: &mut BufReader<TcpStream>) -> (String, String) {
    let (mut status, mut length) = (String::new(), 0);
    stream.read_line(&mut status).unwrap();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    (status.trim().to_owned(), String::from_utf8(body).unwrap())
}

fn terminate(service: &Service) {
    let status = Command::new("kill").arg("-TERM").arg(service.child.id().to_string()).status().unwrap();
    assert!(status.success());
}

fn refusal(model: &Path) -> String {
    let Output { status, stderr, .. } = command(model).output().unwrap();
    assert_eq!(status.code(), Some(1));
    String::from_utf8(stderr).unwrap()
}

#[test]
fn one_connection_takes_many_requests_and_does_not_hold_up_another() {
    let (service, _directory) = start();
    let mut idle = connect(&service);
    // Half a request: it must not keep the service from answering others.
    idle.get_mut().write_all(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{").unwrap();
    let mut busy = connect(&service);
    for _ in 0..20 {
        let body = r#"{"features":{"alcohol":12}}"#;
        write!(busy.get_mut(), "POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            .unwrap();
        let (status, answer) = read_answer(&mut busy);
        assert_eq!(status, "HTTP/1.1 200 OK");
        assert_eq!(answer.trim(), r#"{"quality":7,"score":7.0,"model":"test"}"#);
    }
}

#[test]
fn the_termination_signal_lets_a_request_finish_and_ends_with_0() {
    let (mut service, _directory) = start();
    let idle = connect(&service);
    let mut late = connect(&service);
    let body = r#"{"features":{"alcohol":8}}"#;
    let (first, rest) = body.split_at(5);
    write!(
        late.get_mut(),
        "POST /predict HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .unwrap();
    // The service asks for the body: so it has the request, and is in the middle of it.
    let mut line = String::new();
    late.read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "HTTP/1.1 100 Continue");
    late.read_line(&mut line).unwrap();
    late.get_mut().write_all(first.as_bytes()).unwrap();

    terminate(&service);
    let mut line = String::new();
    service.log.read_line(&mut line).unwrap();
    assert!(line.contains("stopping"), "{line:?}");
    assert!(TcpStream::connect(&service.address).is_err(), "no more connections are taken");

    late.get_mut().write_all(rest.as_bytes()).unwrap();
    let (status, answer) = read_answer(&mut late);
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(answer.contains("\"quality\":5"), "{answer}");
    assert_eq!(service.child.wait().unwrap().code(), Some(0));
    drop(idle);
}

#[test]
fn it_does_not_start_without_a_whole_model() {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("model.json");
    let missing = refusal(&model);
    assert!(missing.contains("cannot read the model") && missing.contains("MODEL_PATH"), "{missing}");
    std::fs::write(&model, &MODEL[..100]).unwrap();
    assert!(refusal(&model).contains("not a model file"));
    std::fs::write(&model, MODEL.replace("\"of\": [0]", "\"of\": [1]")).unwrap();
    assert!(refusal(&model).contains("term 0 is of feature 1"));
}

#[test]
fn a_port_in_use_is_said() {
    let (service, directory) = start();
    let (host, port) = service.address.rsplit_once(':').unwrap();
    let output = command(&directory.path().join("model.json")).env("HOST", host).env("PORT", port).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains(&format!("cannot listen on {}", service.address)), "{text}");
}
