//! A tool's standard output, read in large pieces.
//!
//! Dump tools write some 4 KiB at a time. Whoever waits for the next bytes is woken for each of them, and both spend more time on being woken than on
//! their work. So the pipe is made as large as it may be, and is given a moment to fill whenever a read found little in it.

use std::{
    io,
    os::fd::AsFd,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    time::{Sleep, sleep},
};

/// The size of the pipe, in bytes: the most that Linux lets anybody ask for.
const PIPE: usize = 1 << 20;
/// A read that finds less, in bytes, waits before the next.
const LITTLE: usize = 128 << 10;
/// For how long: a tool would have to write a GiB per second to find the pipe full then.
const MOMENT: Duration = Duration::from_millis(1);

/// Reads a pipe in large pieces.
pub struct Pipe<R> {
    inner: R,
    /// Whether the pipe is so large that its writer does not notice the wait.
    large: bool,
    wait: Option<Pin<Box<Sleep>>>,
}

impl<R: AsyncRead + AsFd + Unpin> Pipe<R> {
    pub fn new(inner: R) -> Self {
        // Refused where this user has many large pipes; then bytes are taken as they come.
        let large = rustix::pipe::fcntl_setpipe_size(&inner, PIPE).is_ok();
        Self { inner, large, wait: None }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Pipe<R> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(wait) = &mut this.wait {
            ready!(wait.as_mut().poll(context));
            this.wait = None;
        }
        let (before, room) = (buffer.filled().len(), buffer.remaining());
        ready!(Pin::new(&mut this.inner).poll_read(context, buffer))?;
        let count = buffer.filled().len() - before;
        if this.large && count > 0 && count < LITTLE.min(room) {
            this.wait = Some(Box::pin(sleep(MOMENT)));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use tokio::{io::AsyncReadExt, process::Command};

    use super::*;

    #[tokio::test]
    async fn small_writes_are_read_in_large_pieces_and_none_is_lost() {
        let script = "i=0; while [ $i -lt 20000 ]; do echo \"line $i of a tool that writes little at a time\"; i=$((i+1)); done";
        let mut child = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut pipe = Pipe::new(child.stdout.take().unwrap());
        let (mut all, mut buffer, mut reads) = (Vec::new(), vec![0; 256 << 10], 0);
        loop {
            let count = pipe.read(&mut buffer).await.unwrap();
            if count == 0 {
                break;
            }
            reads += 1;
            all.extend_from_slice(&buffer[..count]);
        }
        assert!(child.wait().await.unwrap().success());
        let lines = String::from_utf8(all).unwrap();
        assert!(
            lines
                .lines()
                .enumerate()
                .all(|(number, line)| line == format!("line {number} of a tool that writes little at a time"))
        );
        assert_eq!(lines.lines().count(), 20_000);
        assert!(reads < 10_000, "{reads} reads");
    }
}
