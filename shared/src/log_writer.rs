//! A writer for logs that never stops its program: a full disk, a reader that died or one that does not read costs
//! lines, which are counted, and nothing else.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

/// Lines that may wait for a slow reader before further ones are lost.
const QUEUE: usize = 1024;

/// Takes whole lines and hands them to a thread that writes them. Writing to it neither fails nor waits.
#[derive(Clone, Debug)]
pub struct LogWriter {
    queue: SyncSender<Job>,
    lost: Arc<AtomicU64>,
}

enum Job {
    Line(Vec<u8>),
    /// Answered when everything before it has been written.
    Flush(SyncSender<()>),
}

impl LogWriter {
    /// Starts the thread that writes to `out`.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, jobs) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&lost);
        thread::Builder::new().name("log".into()).spawn(move || write_all(out, &jobs, &counter))?;
        Ok(Self { queue, lost })
    }

    /// The number of lines that could not be written; it goes on counting.
    #[must_use]
    pub fn lost(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.lost)
    }

    /// Waits until all lines are written, at most this long: for the end of a program.
    pub fn flush_within(&self, longest: Duration) {
        let (written, is_written) = sync_channel(1);
        if self.queue.try_send(Job::Flush(written)).is_ok() {
            // Whoever does not read in time does not get the rest.
            _ = is_written.recv_timeout(longest);
        }
    }
}

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.queue.try_send(Job::Line(line.to_vec())) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => _ = self.lost.fetch_add(1, Relaxed),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(mut out: impl Write, jobs: &Receiver<Job>, lost: &AtomicU64) {
    for job in jobs {
        match job {
            Job::Line(line) => {
                if out.write_all(&line).is_err() {
                    lost.fetch_add(1, Relaxed);
                }
            }
            Job::Flush(written) => {
                _ = out.flush();
                _ = written.try_send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc::channel};

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_arrive_whole_and_in_order() {
        let page = Page::default();
        let mut log = LogWriter::start(page.clone()).unwrap();
        for i in 0..100 {
            writeln!(log, "{i}").unwrap();
        }
        log.flush_within(LONG);
        let wanted: String = (0..100).map(|i| format!("{i}\n")).collect();
        assert_eq!(String::from_utf8(page.0.lock().unwrap().clone()).unwrap(), wanted);
        assert_eq!(log.lost().load(Relaxed), 0);
    }

    struct FullDisk;

    impl Write for FullDisk {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let mut log = LogWriter::start(FullDisk).unwrap();
        for _ in 0..7 {
            assert_eq!(log.write(b"a line\n").unwrap(), 7);
        }
        log.flush_within(LONG);
        assert_eq!(log.lost().load(Relaxed), 7);
    }

    /// Blocks in its first write until the other end is dropped.
    struct NobodyReads(std::sync::mpsc::Receiver<()>);

    impl Write for NobodyReads {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_a_reader_that_does_not_read() {
        let (read, blocked) = channel();
        let mut log = LogWriter::start(NobodyReads(blocked)).unwrap();
        for _ in 0..QUEUE + 100 {
            log.write_all(b"a line\n").unwrap();
        }
        log.flush_within(Duration::from_millis(10));
        // One is being written, perhaps, and as many wait as there is room for.
        let lost = log.lost().load(Relaxed);
        assert!((99..=100).contains(&lost), "{lost}");
        drop(read);
    }
}
