//! Standard error as the log uses it: a reader that has stopped must not stop the program.
//!
//! A parent that keeps the pipe and never reads it, or a terminal on hold, would otherwise block the only thread at
//! the first line that does not fit. Refuses to know what a line says.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, Write};
use std::os::fd::AsFd;

/// A pipe that is ready takes so many bytes at once (`PIPE_BUF` of Linux).
const PIECE_BYTES_MAX: usize = 4096;

/// Writes what can be written without waiting; the rest is lost, and that is said as soon as somebody reads again.
#[derive(Debug)]
pub struct Patient<W> {
    out: W,
    lost: u64,
}

impl<W: Write + AsFd> Patient<W> {
    /// Around a stream with a descriptor.
    pub fn new(out: W) -> Self {
        Self { out, lost: 0 }
    }

    fn is_ready(&self) -> bool {
        let mut fds = [PollFd::new(&self.out, PollFlags::OUT)];
        // What cannot be asked is tried: files are always ready, and an error shows when writing.
        !matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
    }
}

impl<W: Write + AsFd> Write for Patient<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !self.is_ready() {
            self.lost += 1;
            return Ok(line.len());
        }
        if self.lost > 0 {
            let lost = std::mem::take(&mut self.lost);
            writeln!(self.out, "({lost} lines of this log are lost: nobody read it)")?;
            // That may have been all the room there was.
            return self.write(line);
        }
        self.out.write(line.get(..PIECE_BYTES_MAX).unwrap_or(line))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::thread;

    #[test]
    fn what_nobody_reads_is_lost_and_counted() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut log = Patient::new(writer);
        let line = format!("{}\n", "x".repeat(999));
        // More than a pipe holds: a write that waits would never end.
        let lines = 10_000;
        for _ in 0..lines {
            log.write_all(line.as_bytes()).unwrap();
        }
        let lost = log.lost;
        assert!(0 < lost && lost < lines, "{lost}");
        let all = thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        while !log.is_ready() {
            thread::yield_now();
        }
        log.write_all(b"again\n").unwrap();
        drop(log);
        let text = all.join().unwrap().unwrap();
        let kept = text.lines().filter(|kept| kept.len() == 999).count() as u64;
        assert_eq!(kept + lost, lines);
        assert!(text.ends_with(&format!("({lost} lines of this log are lost: nobody read it)\nagain\n")));
    }

    #[test]
    fn a_long_line_comes_whole() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut log = Patient::new(writer);
        let line = "y".repeat(3 * PIECE_BYTES_MAX + 1);
        log.write_all(line.as_bytes()).unwrap();
        drop(log);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, line);
    }
}
