//! Packet captures that Wireshark and tcpdump read (libpcap's file format, link type RAW).

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Magic number of files with nanoseconds.
const MAGIC: u32 = 0xa1b2_3c4d;
/// Packets begin with the IP header.
const LINKTYPE_RAW: u32 = 101;
const SNAPLEN: u32 = 65_535;

/// A file to which packets are written.
#[derive(Debug)]
pub(crate) struct Capture {
    file: BufWriter<File>,
    started: Duration,
}

impl Capture {
    /// Creates the file. `started` is the time of day at which the laboratory's clock began.
    pub(crate) fn create(path: &Path, started: SystemTime) -> io::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        for word in [MAGIC, 0x0004_0002, 0, 0, SNAPLEN, LINKTYPE_RAW] {
            file.write_all(&word.to_le_bytes())?;
        }
        file.flush()?;
        Ok(Self { file, started: started.duration_since(UNIX_EPOCH).unwrap_or_default() })
    }

    /// Adds a packet.
    pub(crate) fn packet(&mut self, bytes: &[u8], now: Duration) {
        let at = self.started + now;
        let length = u32::try_from(bytes.len()).unwrap_or(SNAPLEN);
        // Seconds of a capture are 32 bits wide.
        for word in [at.as_secs() as u32, at.subsec_nanos(), length, length] {
            // A full disk shortens the capture; the network goes on.
            let _ = self.file.write_all(&word.to_le_bytes());
        }
        let _ = self.file.write_all(bytes);
    }
}
