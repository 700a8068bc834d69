//! The command line: words in, [`Command`] and [`Args`] out. Reads no file, prints nothing, ends nothing.

use crate::dialect::ask::Dialect;
use log::LevelFilter;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Run the proxy.
    Serve,
    /// Read the configuration and try each backend.
    Check {
        /// Only read the configuration.
        offline: bool,
    },
    /// Say what would become of a request.
    Explain,
    /// Ask the program that runs with this configuration whether it answers.
    Health,
    /// Print [`HELP`].
    Help,
    /// Print the version.
    Version,
}

/// How to do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Args {
    /// The configuration file.
    pub config: PathBuf,
    /// Whether it was named. If not, it need not exist.
    pub config_given: bool,
    /// Wins over `server.host`.
    pub host: Option<String>,
    /// Wins over `server.port`. 0 is any free port.
    pub port: Option<u16>,
    /// Least important messages to log.
    pub log_level: LevelFilter,
    /// For `explain`: the model asked for.
    pub model: Option<String>,
    /// For `explain`: a file with the request.
    pub file: Option<PathBuf>,
    /// For `explain`: the protocol of that request.
    pub dialect: Option<Dialect>,
}

impl Default for Args {
    fn default() -> Self {
        Args {
            config: PathBuf::from("config.yaml"),
            config_given: false,
            host: None,
            port: None,
            log_level: LevelFilter::Info,
            model: None,
            file: None,
            dialect: None,
        }
    }
}

/// A command line that was not understood: one line that says which word, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageError(String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// What `--help` prints.
pub const HELP: &str = "\
ai-free-swap: one endpoint over many free-tier AI accounts.

Clients speak OpenAI chat completions to http://HOST:PORT/v1. Each request goes to the first backend of the
configuration that answers; failures are hidden from the client.

Usage: ai-free-swap [COMMAND] [OPTIONS]

Commands:
  serve             run the proxy (the default)
  check             read the configuration, call each backend once, and print a table
  check --offline   only read the configuration
  explain           say which backends a request would try, in which order, and who is skipped; calls nobody
  health            ask the running program on this machine: status 0 if it answers, 1 if not

Options:
  -c, --config PATH      configuration file [default: config.yaml]
      --host HOST        address to listen on; wins over server.host
      --port PORT        port to listen on; wins over server.port; 0 is any free one
      --log-level LEVEL  debug, info, warning or error [default: info]
      --model MODEL      (explain) the model asked for
      --file PATH        (explain) a request as a client sends it
      --dialect NAME     (explain) its protocol: chat, messages or responses [default: a guess]
  -V, --version          print the version
  -h, --help             print this text

Without --config and without a config.yaml here, backends come from the environment: GEMINI_API_KEY,
GROQ_API_KEY, OPENROUTER_API_KEY, MISTRAL_API_KEY, CEREBRAS_API_KEY and so on, each with a default model;
SERVER_API_KEY is the key clients must send, PORT the port. With none of them a built-in demo answers.

HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY are honoured; SSL_CERT_FILE adds trusted certificates.
SIGHUP reads the configuration again. SIGTERM and SIGINT let running answers finish, a second one does not.

Exit status: 0 after a normal end, 1 if the configuration or the network is at fault, 2 for a wrong option.
";

/// Reads the words after the program's name. Options may stand before or after the command; the last one wins.
///
/// # Errors
/// Unknown options and commands, missing or impossible values.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<(Command, Args), UsageError> {
    let mut words = args;
    let mut parsed = Args::default();
    let mut command = None;
    let mut offline = false;
    while let Some(word) = words.next() {
        let Some(text) = word.to_str() else {
            return Err(UsageError(
                "an option is not valid UTF-8; give a path as `--config PATH`, in two words".into(),
            ));
        };
        let (flag, mut attached) = split(text);
        let mut value = || attached.take().map(OsString::from).or_else(|| words.next());
        match flag {
            "-h" | "--help" => return Ok((Command::Help, parsed)),
            "-V" | "--version" => return Ok((Command::Version, parsed)),
            "-c" | "--config" => {
                let path = value().filter(|path| !path.is_empty()).ok_or_else(|| missing(flag, "a path"))?;
                parsed.config = path.into();
                parsed.config_given = true;
            }
            "--host" => {
                let host = utf8(value()).filter(|host| !host.trim().is_empty());
                let host = host.ok_or_else(|| missing(flag, "a name or address, such as 127.0.0.1"))?;
                let host = host.trim();
                let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
                parsed.host = Some(bare.to_owned());
            }
            "--port" => {
                let port = utf8(value()).and_then(|port| port.trim().parse().ok());
                parsed.port = Some(port.ok_or_else(|| missing(flag, "a number from 0 to 65535"))?);
            }
            "--log-level" => {
                let level = utf8(value()).and_then(|level| log_level(level.trim()));
                parsed.log_level = level.ok_or_else(|| missing(flag, "debug, info, warning or error"))?;
            }
            "--model" => {
                let model = utf8(value()).filter(|model| !model.trim().is_empty());
                parsed.model = Some(model.ok_or_else(|| missing(flag, "the name of a model"))?);
            }
            "--file" => {
                let path = value().filter(|path| !path.is_empty()).ok_or_else(|| missing(flag, "a path"))?;
                parsed.file = Some(path.into());
            }
            "--dialect" => {
                let dialect = utf8(value()).and_then(|name| dialect(name.trim()));
                parsed.dialect = Some(dialect.ok_or_else(|| missing(flag, "chat, messages or responses"))?);
            }
            "--offline" => offline = true,
            "serve" if command.is_none() => command = Some(Command::Serve),
            "check" if command.is_none() => command = Some(Command::Check { offline: false }),
            "explain" if command.is_none() => command = Some(Command::Explain),
            "health" if command.is_none() => command = Some(Command::Health),
            _ if flag.starts_with('-') => return Err(unknown("option", flag)),
            _ if command.is_some() => return Err(unknown("argument", flag)),
            _ => return Err(unknown("command", flag)),
        }
        if attached.is_some() {
            return Err(UsageError(format!("{flag} takes no value; remove what follows the `=`")));
        }
    }
    let command = command.unwrap_or(Command::Serve);
    let is_check = matches!(command, Command::Check { .. });
    let explains = parsed.model.is_some() || parsed.file.is_some() || parsed.dialect.is_some();
    if offline && !is_check {
        let text = "--offline belongs to `check`; write `ai-free-swap check --offline`";
        return Err(UsageError(text.into()));
    }
    if explains && command != Command::Explain {
        let text = "--model, --file and --dialect belong to `explain`; write `ai-free-swap explain`";
        return Err(UsageError(text.into()));
    }
    if parsed.dialect.is_some() && parsed.file.is_none() {
        return Err(UsageError("--dialect says what is in a --file; name one".into()));
    }
    Ok((if is_check { Command::Check { offline } } else { command }, parsed))
}

/// Cuts `--flag=value` and `-cvalue` in two.
fn split(word: &str) -> (&str, Option<&str>) {
    if word.starts_with("--") {
        return word.split_once('=').map_or((word, None), |(flag, value)| (flag, Some(value)));
    }
    match word.strip_prefix("-c") {
        Some(rest) if !rest.is_empty() => ("-c", Some(rest.strip_prefix('=').unwrap_or(rest))),
        _ => (word, None),
    }
}

fn utf8(value: Option<OsString>) -> Option<String> {
    value?.into_string().ok()
}

fn log_level(name: &str) -> Option<LevelFilter> {
    match name.to_ascii_lowercase().as_str() {
        "debug" => Some(LevelFilter::Debug),
        "info" => Some(LevelFilter::Info),
        "warning" | "warn" => Some(LevelFilter::Warn),
        "error" => Some(LevelFilter::Error),
        _ => None,
    }
}

fn dialect(name: &str) -> Option<Dialect> {
    let all = [Dialect::Chat, Dialect::Messages, Dialect::Responses];
    all.into_iter().find(|dialect| dialect.name().eq_ignore_ascii_case(name))
}

fn missing(flag: &str, wanted: &str) -> UsageError {
    UsageError(format!("{flag} needs {wanted}; see --help"))
}

fn unknown(kind: &str, word: &str) -> UsageError {
    // One line, whatever the word holds.
    UsageError(format!("unknown {kind} `{}`; see --help", word.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<(Command, Args), String> {
        parse(line.split_whitespace().map(OsString::from)).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn check(line: &str, command: Command, change: impl FnOnce(&mut Args)) {
        let mut args = Args::default();
        change(&mut args);
        assert_eq!(read(line), Ok((command, args)), "{line}");
    }

    #[track_caller]
    fn check_refused(line: &str, message: &str) {
        let error = read(line).unwrap_err();
        assert!(error.contains(message), "{line}: {error}");
        assert!(!error.contains('\n'), "{line}: {error}");
    }

    #[test]
    fn options_in_every_form() {
        check("", Command::Serve, |_| ());
        check("serve", Command::Serve, |_| ());
        for line in ["--config a=b.yaml", "--config=a=b.yaml", "-c a=b.yaml", "-ca=b.yaml", "-c=a=b.yaml"] {
            check(line, Command::Serve, |args| {
                args.config = PathBuf::from("a=b.yaml");
                args.config_given = true;
            });
        }
        check("--host=[::1] --port 0 --log-level WARN", Command::Serve, |args| {
            args.host = Some("::1".to_owned());
            args.port = Some(0);
            args.log_level = LevelFilter::Warn;
        });
        check("--port 1 --port=2", Command::Serve, |args| args.port = Some(2));
        for (name, level) in
            [("debug", LevelFilter::Debug), ("Warning", LevelFilter::Warn), ("error", LevelFilter::Error)]
        {
            check(&format!("--log-level {name}"), Command::Serve, |args| args.log_level = level);
        }
    }

    #[test]
    fn commands_before_and_after_options() {
        check("check --port 1", Command::Check { offline: false }, |args| args.port = Some(1));
        check("health --port 1", Command::Health, |args| args.port = Some(1));
        check("--offline --port 1 check", Command::Check { offline: true }, |args| args.port = Some(1));
        check("explain", Command::Explain, |_| ());
        check("--model m explain --file=a.json --dialect Messages", Command::Explain, |args| {
            args.model = Some("m".to_owned());
            args.file = Some(PathBuf::from("a.json"));
            args.dialect = Some(Dialect::Messages);
        });
        for line in ["-h", "check --help", "--port 1 -h --nonsense"] {
            assert_eq!(read(line).map(|(command, _)| command), Ok(Command::Help), "{line}");
        }
        for line in ["-V", "--version"] {
            assert_eq!(read(line).map(|(command, _)| command), Ok(Command::Version), "{line}");
        }
    }

    #[test]
    fn what_is_refused() {
        check_refused("--prot 1", "unknown option `--prot`; see --help");
        check_refused("-x", "unknown option `-x`");
        check_refused("-", "unknown option `-`");
        check_refused("start", "unknown command `start`");
        check_refused("check it", "unknown argument `it`");
        check_refused("health check", "unknown argument `check`");
        check_refused("health --offline", "`ai-free-swap check --offline`");
        check_refused("serve serve", "unknown argument `serve`");
        check_refused("--config", "--config needs a path");
        check_refused("--config=", "--config needs a path");
        check_refused("--host", "--host needs a name or address");
        for port in ["", "x", "-1", "65536", "1.0"] {
            check_refused(&format!("--port {port}"), "--port needs a number from 0 to 65535");
        }
        check_refused("--log-level loud", "--log-level needs debug, info, warning or error");
        check_refused("--offline", "`ai-free-swap check --offline`");
        for line in ["--model m", "serve --file x", "check --model m", "check --offline --model m"] {
            check_refused(line, "belong to `explain`");
        }
        check_refused("explain --offline", "--offline belongs to `check`");
        check_refused("explain --dialect chat", "--dialect says what is in a --file");
        check_refused("explain --dialect grpc --file x", "--dialect needs chat, messages or responses");
        check_refused("explain --file=", "--file needs a path");
        check_refused("explain --model", "--model needs the name of a model");
        check_refused("explain check", "unknown argument `check`");
        check_refused("check --offline=yes", "--offline takes no value");
        assert!(parse([OsString::from("a\nb")].into_iter()).unwrap_err().to_string().contains(r"`a\nb`"));
    }

    #[cfg(unix)]
    #[test]
    fn a_path_need_not_be_utf8() {
        use std::os::unix::ffi::OsStringExt;
        let path = OsString::from_vec(b"\xff.yaml".to_vec());
        let (_, args) = parse(["-c".into(), path.clone()].into_iter()).unwrap();
        assert_eq!(args.config, PathBuf::from(path.clone()));
        assert!(parse([path].into_iter()).is_err());
    }

    #[test]
    fn the_help_fits_a_screen() {
        assert!(HELP.lines().count() <= 40);
        assert!(HELP.lines().all(|line| line.len() <= 110));
    }
}
