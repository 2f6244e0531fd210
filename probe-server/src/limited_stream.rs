//! A stream whose reading is limited: all that stands between a stream and whoever reads from it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Decides what may be read.
pub(crate) trait ReadLimit: Unpin {
    /// Most bytes that the next read may bring.
    ///
    /// # Errors
    /// When nothing more may be read. That ends the stream.
    fn allowed(&mut self) -> io::Result<usize> {
        Ok(usize::MAX)
    }

    /// Takes note of what was read, which is not more than was allowed.
    ///
    /// # Errors
    /// When that was too much. That ends the stream.
    fn follow(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// The stream below and its limit.
#[derive(Debug)]
pub(crate) struct Limited<S, L> {
    stream: S,
    limit: L,
    /// What somebody has read already, to be read once more.
    beginning: Vec<u8>,
}

impl<S, L> Limited<S, L> {
    pub(crate) const fn new(stream: S, limit: L) -> Self {
        Self::after(Vec::new(), stream, limit)
    }

    /// A stream of which the beginning has been read already.
    pub(crate) const fn after(beginning: Vec<u8>, stream: S, limit: L) -> Self {
        Self { stream, limit, beginning }
    }

    pub(crate) const fn limit(&self) -> &L {
        &self.limit
    }

    pub(crate) const fn limit_mut(&mut self) -> &mut L {
        &mut self.limit
    }
}

impl<S: AsyncRead + Unpin, L: ReadLimit> AsyncRead for Limited<S, L> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let allowed = this.limit.allowed()?.min(buffer.remaining());
        let mut piece = ReadBuf::new(buffer.initialize_unfilled_to(allowed));
        if this.beginning.is_empty() {
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut piece))?;
        } else {
            let rest = this.beginning.split_off(allowed.min(this.beginning.len()));
            piece.put_slice(&std::mem::replace(&mut this.beginning, rest));
        }
        let length = piece.filled().len();
        this.limit.follow(piece.filled())?;
        buffer.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin, L: Unpin> AsyncWrite for Limited<S, L> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    /// At most three bytes at a time, ten in all.
    struct Ten(usize);

    impl ReadLimit for Ten {
        fn allowed(&mut self) -> io::Result<usize> {
            Ok(3)
        }

        fn follow(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::QuotaExceeded)?;
            Ok(())
        }
    }

    #[tokio::test]
    async fn the_beginning_comes_first_and_all_of_it_counts() {
        let mut stream = Limited::after(b"abcd".to_vec(), &b"efghijklm"[..], Ten(10));
        let mut piece = [0; 9];
        assert_eq!(stream.read(&mut piece).await.unwrap(), 3);
        assert_eq!(&piece[..3], b"abc");
        stream.read_exact(&mut piece[..7]).await.unwrap();
        assert_eq!(&piece[..7], b"defghij");
        assert_eq!(stream.read(&mut piece).await.unwrap_err().kind(), io::ErrorKind::QuotaExceeded);
    }
}
