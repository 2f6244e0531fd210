//! Processor time and memory used by a process, and the cores that it may run on.

use std::{fs, io, thread, time::Duration};

use rustix::{
    process::Pid,
    thread::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

/// The processor time that all threads of a process have used so far.
///
/// # Errors
/// When there is no such process.
pub fn processor_time(pid: u32) -> io::Result<Duration> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        sum += nanoseconds(&fs::read_to_string(task?.path().join("schedstat"))?);
    }
    Ok(Duration::from_nanos(sum))
}

/// The processor time that each UDP worker of a server has used so far.
///
/// # Errors
/// When there is no such process.
pub fn worker_times(pid: u32) -> io::Result<Vec<Duration>> {
    let mut times = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        if fs::read_to_string(task.join("comm"))?.starts_with("udp-") {
            times.push(Duration::from_nanos(nanoseconds(&fs::read_to_string(task.join("schedstat"))?)));
        }
    }
    Ok(times)
}

/// The processor time that the calling thread has used so far, to the nanosecond; schedstat is updated only
/// with each tick.
#[must_use]
pub fn own_processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// The first number of a schedstat file: the time on a processor.
fn nanoseconds(schedstat: &str) -> u64 {
    schedstat.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default()
}

/// The resident memory of a process in KiB.
///
/// # Errors
/// When there is no such process.
pub fn resident_kib(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()).and_then(|n| n.parse().ok());
    number.ok_or_else(|| io::Error::other("no VmRSS"))
}

/// Pins the calling thread, and threads and processes that it starts from now on, to one core.
///
/// # Errors
/// When there is no such core.
pub fn pin(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

/// Lets all threads of a process run on any core.
///
/// # Errors
/// When there is no such process.
pub fn unpin(pid: u32) -> io::Result<()> {
    let mut set = CpuSet::new();
    (0..thread::available_parallelism().map_or(1, usize::from)).for_each(|core| set.set(core));
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let tid = task?.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        sched_setaffinity(tid, &set)?;
    }
    Ok(())
}
