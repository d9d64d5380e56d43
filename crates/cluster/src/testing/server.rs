//! A static HTTP server for tests, compiled once per test program with the `rustc` that builds them.

use domain::Digest;
use std::{
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

/// Source of the server. `/health` answers 200, `/env/NAME` a variable, `/file/PATH` a file, `/crash` ends it with code 3,
/// `/child` leaves a child process behind, `/write/PATH` tries to write a file. `EXIT_WITH` makes it end at once.
pub const SERVER_SOURCE: &str = r#"
use std::{io::{BufRead, BufReader, Write}, net::TcpListener};
fn main() {
    if std::env::args().nth(1).as_deref() == Some("idle") {
        loop { std::thread::park() }
    }
    if let Ok(code) = std::env::var("EXIT_WITH") {
        eprintln!("told to exit with {code}");
        std::process::exit(code.parse().unwrap());
    }
    let port = std::env::var("LISTEN").expect("LISTEN is not set");
    let listener = TcpListener::bind(&port).unwrap();
    println!("listening on {port}");
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let mut line = String::new();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        reader.read_line(&mut line).unwrap_or(0);
        let mut header = String::new();
        while reader.read_line(&mut header).unwrap_or(0) > 2 { header.clear() }
        let path = line.split(' ').nth(1).unwrap_or("/").to_owned();
        let mut status = "200 OK";
        let body = if let Some(name) = path.strip_prefix("/env/") {
            std::env::var(name).unwrap_or_else(|_| { status = "404 Not Found"; String::new() })
        } else if let Some(file) = path.strip_prefix("/file") {
            std::fs::read_to_string(file).unwrap_or_else(|error| { status = "404 Not Found"; error.to_string() })
        } else if let Some(file) = path.strip_prefix("/write") {
            std::fs::write(file, "written").map(|()| "written".to_owned()).unwrap_or_else(|error| {
                status = "403 Forbidden"; error.to_string()
            })
        } else if path == "/crash" {
            println!("told to crash");
            std::process::exit(3)
        } else if path == "/child" {
            let child = std::process::Command::new(std::env::current_exe().unwrap()).arg("idle").spawn().unwrap();
            child.id().to_string()
        } else {
            "ok".to_owned()
        };
        let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    }
}
"#;

/// The compiled server: a static program that runs on any file system. It is kept among the temporary files, by the digest of
/// its source, for the next run. It panics with the compiler's words when it cannot be compiled.
pub fn build_server() -> &'static Path {
    static SERVER: OnceLock<PathBuf> = OnceLock::new();
    SERVER.get_or_init(|| {
        let name = format!("sealift-test-server-{}", Digest::of(SERVER_SOURCE).short());
        let program = std::env::temp_dir().join(name);
        if !program.exists() {
            compile(&program);
        }
        program
    })
}

fn compile(program: &Path) {
    let dir = tempfile::tempdir_in(std::env::temp_dir()).expect("a temporary directory");
    let (source, compiled) = (dir.path().join("server.rs"), dir.path().join("server"));
    std::fs::write(&source, SERVER_SOURCE).expect("the server's source is written");
    let compiler = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let output = Command::new(compiler)
        .args([
            "--edition",
            "2024",
            "-C",
            "target-feature=+crt-static",
            "-C",
            "opt-level=1",
            "-C",
            "strip=symbols",
            "-o",
        ])
        .args([&compiled, &source])
        .output()
        .expect("rustc runs");
    assert!(output.status.success(), "rustc: {}", String::from_utf8_lossy(&output.stderr));
    // By renaming, so that two test programs at once both find a whole one.
    std::fs::rename(&compiled, program).expect("the server is put in place");
}

/// The status line's code and the body of `GET path`, or why there is none.
pub fn get(port: u16, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Ok((status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()))
}
