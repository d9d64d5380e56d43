//! What the person in front sees: words, commands as typed, and their own output below them.
//!
//! No command is shown that is not run, and none is run that is not shown: [`Stage::typed`] does both. A command that
//! ends with another exit code than the story says ends the story.

use crate::shell::Outcome;
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    io::IsTerminal,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};
use tokio::signal::unix::{SignalKind, signal};

/// Between two looks at something that is waited for.
pub(super) const GLANCE: Duration = Duration::from_millis(20);
/// How long what we started may take to end after SIGTERM.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// A signal that stops the demo, with its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// Ctrl-C.
    Interrupt,
    /// A supervisor asks.
    Terminate,
}

impl Stop {
    /// The exit code of a program that was stopped so.
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }

    fn signal(self) -> Signal {
        match self {
            Self::Interrupt => Signal::INT,
            Self::Terminate => Signal::TERM,
        }
    }
}

/// Which signal came, and who runs now.
#[derive(Debug, Default)]
struct Running {
    stop: Option<Stop>,
    group: Option<Pid>,
}

/// The demo's stage.
#[derive(Debug)]
pub(super) struct Stage {
    environment: Vec<(String, String)>,
    place: PathBuf,
    running: Arc<Mutex<Running>>,
    colour: bool,
    chapter: u32,
}

impl Stage {
    /// A stage whose commands see `environment` besides what the demo sees, and nothing of cargo's that would reach into
    /// the example's builds. From here on SIGINT and SIGTERM are passed on to the command that runs.
    pub(super) fn open(place: &Path, environment: Vec<(String, String)>) -> Outcome<Self> {
        let running = Arc::new(Mutex::new(Running::default()));
        listen(Arc::clone(&running))?;
        let colour =
            std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Ok(Self { environment, place: place.to_owned(), running, colour, chapter: 0 })
    }

    /// The signal that came, if one did.
    pub(super) fn stopped(&self) -> Option<Stop> {
        lock(&self.running).stop
    }

    /// Fails when a signal came.
    pub(super) fn go_on(&self) -> Outcome {
        match self.stopped() {
            Some(Stop::Interrupt) => Err("stopped by SIGINT".to_owned()),
            Some(Stop::Terminate) => Err("stopped by SIGTERM".to_owned()),
            None => Ok(()),
        }
    }

    /// A numbered heading.
    pub(super) fn chapter(&mut self, title: &str) {
        self.chapter += 1;
        let heading = format!("{}. {title}", self.chapter);
        let rule = "─".repeat(90_usize.saturating_sub(heading.chars().count() + 4));
        println!("\n{}", self.painted("1;36", &format!("── {heading} {rule}")));
    }

    /// Words of the demo itself, each line marked so that nobody takes them for output.
    pub(super) fn say(&self, text: &str) {
        for line in text.lines().flat_map(|line| wrapped(line, 96)) {
            println!("{}", self.painted("36", format!("# {line}").trim_end()));
        }
    }

    /// One line of a difference.
    pub(super) fn changed(&self, file: &str, old: &str, new: &str) {
        println!("\n{}", self.painted("1", &format!("edit {file}")));
        println!("{}\n{}", self.painted("31", &format!("- {old}")), self.painted("32", &format!("+ {new}")));
    }

    /// A question to a service and its answer.
    pub(super) fn asked(&self, question: &str, answer: &str) {
        println!("\n{}\n{}", self.painted("1", &format!("> {question}")), folded(answer.trim_end(), 100));
    }

    fn painted(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Changes the folder in which the next commands are typed.
    pub(super) fn enter(&mut self, place: &Path, shown: &str) {
        self.place = place.to_owned();
        println!("\n{}", self.painted("1", &format!("$ cd {shown}")));
    }

    /// Shows and runs a command that must end with 0.
    pub(super) fn typed(&self, words: &[&str]) -> Outcome<Duration> {
        self.ends_with(0, words)
    }

    /// Shows and runs a command that must end with `wanted`; gives the time it took.
    pub(super) fn ends_with(&self, wanted: i32, words: &[&str]) -> Outcome<Duration> {
        self.go_on()?;
        let shown = words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
        println!("\n{}", self.painted("1", &format!("$ {shown}")));
        let begun = Instant::now();
        let status = self.run(words, &shown)?;
        let took = begun.elapsed();
        self.go_on()?;
        if status.code() != Some(wanted) {
            return Err(format!("`{shown}` ended with {status}, and the demo expects {wanted}"));
        }
        if wanted != 0 {
            self.say(&format!("(exit {wanted})"));
        }
        Ok(took)
    }

    fn run(&self, words: &[&str], shown: &str) -> Outcome<ExitStatus> {
        let mut child = self.command(words).spawn().map_err(|cause| format!("`{shown}` did not start: {cause}"))?;
        {
            let mut running = lock(&self.running);
            running.group = group(&child);
            // The signal may have come between the look and the start.
            if let (Some(stop), Some(group)) = (running.stop, running.group) {
                let _ = kill_process_group(group, stop.signal());
            }
        }
        let status = child.wait().map_err(|cause| format!("`{shown}`: {cause}"));
        lock(&self.running).group = None;
        status
    }

    /// A command in a process group of its own: a signal reaches it once, from here, and reaches its children too.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(words.first().copied().unwrap_or("true"));
        command.args(words.get(1..).unwrap_or_default()).current_dir(&self.place).stdin(Stdio::null()).process_group(0);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(reaches_into_builds) {
                command.env_remove(name);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Shows and starts a program that serves until it is stopped.
    pub(super) fn serve(&self, shown: &str, words: &[&str], variables: &[(&str, &str)]) -> Outcome<Service> {
        self.go_on()?;
        println!("\n{}", self.painted("1", &format!("$ {shown}")));
        let mut command = self.command(words);
        command.envs(variables.iter().copied());
        let child = command.spawn().map_err(|cause| format!("`{shown}` did not start: {cause}"))?;
        Ok(Service { name: shown.to_owned(), child, over: false })
    }

    /// Waits until `there` says so.
    pub(super) fn wait(&self, what: &str, within: Duration, mut there: impl FnMut() -> Outcome<bool>) -> Outcome {
        let begun = Instant::now();
        loop {
            self.go_on()?;
            if there()? {
                return Ok(());
            }
            if begun.elapsed() > within {
                return Err(format!("waited {} s in vain for {what}", within.as_secs()));
            }
            thread::sleep(GLANCE);
        }
    }
}

/// A program that serves; stopped at the latest when it goes out of scope.
#[derive(Debug)]
pub(super) struct Service {
    name: String,
    child: Child,
    over: bool,
}

impl Service {
    /// Fails if it has ended by itself.
    pub(super) fn still_runs(&mut self) -> Outcome {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("`{}` ended with {status}", self.name)),
            Err(cause) => Err(format!("`{}`: {cause}", self.name)),
        }
    }

    /// Asks it to stop and waits.
    pub(super) fn stop(mut self) -> Outcome<ExitStatus> {
        self.end()
    }

    fn end(&mut self) -> Outcome<ExitStatus> {
        self.over = true;
        let named = |cause: std::io::Error| format!("`{}`: {cause}", self.name);
        let group = group(&self.child);
        if let (None, Some(group)) = (self.child.try_wait().map_err(named)?, group) {
            let _ = kill_process_group(group, Signal::TERM);
        }
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().map_err(named)? {
                return Ok(status);
            }
            if begun.elapsed() > STOP_WITHIN {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return Err(format!("`{}` did not stop within {} s and was killed", self.name, STOP_WITHIN.as_secs()));
            }
            thread::sleep(GLANCE);
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if !self.over
            && let Err(problem) = self.end()
        {
            eprintln!("demo: {problem}");
        }
    }
}

/// `text` in lines of at most `width` columns where it can be broken after a comma; nothing is left out.
fn folded(text: &str, width: usize) -> String {
    let mut lines = vec![String::new()];
    for piece in text.split_inclusive(',') {
        if let Some(line) = lines.last_mut()
            && (line.is_empty() || line.chars().count() + piece.chars().count() <= width)
        {
            line.push_str(piece);
        } else {
            lines.push(format!("  {piece}"));
        }
    }
    lines.join("\n")
}

/// `line` in lines of at most `width` columns, broken between words; a longer word stays whole.
fn wrapped(line: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in line.split_inclusive(' ') {
        let fits = |last: &String| (last.chars().count() + word.trim_end().chars().count()) <= width;
        match lines.last_mut() {
            Some(last) if last.trim().is_empty() || fits(last) => last.push_str(word),
            _ => lines.push(format!("  {word}")),
        }
    }
    lines
}

/// A word as it would have to be typed.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./@:=,+%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// What cargo sets for the programs that it runs, or a person for another build, and what git sets for its hooks: in the
/// example it would change what is built, and where.
fn reaches_into_builds(name: &str) -> bool {
    const WHOLE: [&str; 9] = [
        "RUSTFLAGS",
        "RUSTDOCFLAGS",
        "RUSTC_BOOTSTRAP",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_INCREMENTAL",
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_PREFIX",
    ];
    const BEGINNINGS: [&str; 9] = [
        "CARGO_MANIFEST_",
        "CARGO_PKG_",
        "CARGO_BIN_",
        "CARGO_CRATE_",
        "CARGO_BUILD_",
        "CARGO_TARGET_",
        "CARGO_PROFILE_",
        "CARGO_RESOLVER_",
        "CARGO_UNSTABLE_",
    ];
    WHOLE.contains(&name) || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

fn group(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes SIGINT and SIGTERM from here on: notes them, and passes them to the command that runs.
fn listen(running: Arc<Mutex<Running>>) -> Outcome {
    let failed = |cause: std::io::Error| format!("signals cannot be taken: {cause}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt()).map_err(failed)?, signal(SignalKind::terminate()).map_err(failed)?)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            loop {
                let stop = tokio::select! {
                    _ = interrupt.recv() => Stop::Interrupt,
                    _ = terminate.recv() => Stop::Terminate,
                };
                let mut running = lock(&running);
                running.stop.get_or_insert(stop);
                if let Some(group) = running.group {
                    let _ = kill_process_group(group, stop.signal());
                }
            }
        });
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_take_them_apart() {
        assert_eq!(quoted("wine@1.0.0"), "wine@1.0.0");
        assert_eq!(quoted("feat: it's wine"), "'feat: it'\\''s wine'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn words_are_wrapped_and_indentation_is_kept() {
        assert_eq!(wrapped("  one two three", 9), ["  one two ", "  three"]);
        assert_eq!(wrapped("short", 9), ["short"]);
    }

    #[test]
    fn long_answers_are_folded_and_whole() {
        assert_eq!(folded("{\"a\":1,\"b\":2,\"c\":3}", 100), "{\"a\":1,\"b\":2,\"c\":3}");
        assert_eq!(folded("{\"a\":1,\"b\":2,\"c\":3}", 14), "{\"a\":1,\"b\":2,\n  \"c\":3}");
    }

    #[test]
    fn the_exit_code_must_be_the_expected_one() {
        let stage = Stage::open(Path::new("/"), Vec::new()).unwrap();
        assert!(stage.typed(&["true"]).is_ok());
        assert!(stage.ends_with(1, &["false"]).is_ok());
        let problem = stage.ends_with(2, &["false"]).unwrap_err();
        assert_eq!(problem, "`false` ended with exit status: 1, and the demo expects 2");
        assert!(stage.typed(&["/no/such/program"]).unwrap_err().contains("did not start"));
    }

    #[test]
    fn a_service_is_stopped_and_one_that_ended_is_named() {
        let stage = Stage::open(Path::new("/"), Vec::new()).unwrap();
        let mut service = stage.serve("sleep 60", &["sleep", "60"], &[]).unwrap();
        service.still_runs().unwrap();
        assert_eq!(service.stop().unwrap().code(), None);
        let mut ended = stage.serve("false", &["false"], &[]).unwrap();
        let over = stage.wait("its end", Duration::from_secs(10), || Ok(ended.still_runs().is_err()));
        over.unwrap();
        assert!(ended.still_runs().unwrap_err().contains("ended with"));
    }
}
