//! What the machine says about processes, and peers that are fed from memory.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
};

use bytes::Bytes;

/// Processor time of this process and of its children that have ended.
#[derive(Clone, Copy)]
pub struct Usage {
    pub seconds: f64,
}

impl Usage {
    pub fn now() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        // The name may hold spaces; the fields behind it are counted from the third. Ticks are hundredths of a second on Linux.
        let ticks: u32 = stat
            .rsplit_once(") ")
            .unwrap()
            .1
            .split(' ')
            .skip(11)
            .take(4)
            .map(|field| field.parse::<u32>().unwrap())
            .sum();
        Self {
            seconds: f64::from(ticks) / 100.0,
        }
    }
}

/// A field of `/proc/self/status` in KiB.
pub fn status(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Feeds a program from memory, in pieces as a pipe would, and lets what it writes go.
pub fn peer(program: &str, arguments: &[&str], data: &Bytes, times: usize) {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for _ in 0..times {
        for chunk in data.chunks(64 << 10) {
            stdin.write_all(chunk).unwrap();
        }
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}
