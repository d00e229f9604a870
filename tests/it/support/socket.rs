//! A client that speaks as it likes, well or badly.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::SOON;

/// For the other side to hang up. The longest that it waits for somebody is 10 s.
const HANG_UP_LIMIT: Duration = Duration::from_secs(60);
/// Between two bytes of a client that drips.
const DRIP_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) struct Socket {
    stream: TcpStream,
    heard: Vec<u8>,
}

impl Socket {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), heard: Vec::new() }
    }

    /// With room for some 4 KiB that nobody has read yet.
    pub(crate) async fn connect_narrow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        Self { stream: socket.connect(address).await.unwrap(), heard: Vec::new() }
    }

    /// Says what the other side still listens to.
    pub(crate) async fn say(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// Says all this, and listens until the other side hangs up.
    pub(crate) async fn say_all(mut self, bytes: impl AsRef<[u8]>) -> String {
        let Self { stream, heard } = &mut self;
        let (mut ear, mut mouth) = stream.split();
        let spoken = async {
            let _ = mouth.write_all(bytes.as_ref()).await;
            std::future::pending::<()>().await;
        };
        let hung_up = async { while ear.read_buf(heard).await.is_ok_and(|count| count > 0) {} };
        let conversation = async {
            tokio::select! {
                () = spoken => {}
                () = hung_up => {}
            }
        };
        timeout(HANG_UP_LIMIT, conversation).await.expect("nobody hangs up");
        self.text()
    }

    /// Says this a byte a second, and listens until the other side hangs up.
    pub(crate) async fn drip(mut self, bytes: impl AsRef<[u8]>) -> String {
        let mut bytes = bytes.as_ref().iter();
        let conversation = async {
            loop {
                match timeout(DRIP_INTERVAL, self.stream.read_buf(&mut self.heard)).await {
                    Ok(Ok(0) | Err(_)) => return,
                    Ok(Ok(_)) => {}
                    Err(_) => {
                        let byte = bytes.next().expect("there is something to say");
                        let _ = self.stream.write_all(&[*byte]).await;
                    }
                }
            }
        };
        timeout(HANG_UP_LIMIT, conversation).await.expect("nobody hangs up");
        self.text()
    }

    /// Says this again and again, and never listens, until the other side hangs up.
    pub(crate) async fn talk(mut self, bytes: impl AsRef<[u8]>) {
        let talk = async { while self.stream.write_all(bytes.as_ref()).await.is_ok() {} };
        timeout(HANG_UP_LIMIT, talk).await.expect("nobody hangs up");
    }

    /// The status of the next answer.
    pub(crate) async fn answer(&mut self) -> Option<u16> {
        Some(self.whole_answer().await?.0)
    }

    /// The status and the body of the next answer.
    pub(crate) async fn whole_answer(&mut self) -> Option<(u16, String)> {
        let answer = async {
            loop {
                if let Some((status, body)) = first_answer(&self.heard) {
                    let text = String::from_utf8_lossy(&self.heard[body.clone()]).into_owned();
                    self.heard.drain(..body.end);
                    return Some((status, text));
                }
                let read = self.stream.read_buf(&mut self.heard).await;
                if !read.is_ok_and(|count| count > 0) {
                    return None;
                }
            }
        };
        timeout(SOON, answer).await.expect("no answer")
    }

    /// Says no more, and takes what answer there is to what was said.
    pub(crate) async fn last_answer(&mut self) -> Option<(u16, String)> {
        let _ = self.stream.shutdown().await;
        self.whole_answer().await
    }

    /// Hangs up: says that no more comes or, if it `breaks` the connection, that nothing is read any more either.
    pub(crate) fn hang_up(self, breaks: bool) {
        if breaks {
            self.stream.set_zero_linger().unwrap();
        }
    }

    /// Whether the other side has hung up.
    pub(crate) fn hung_up(&self) -> bool {
        !matches!(self.stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.heard).into_owned()
    }
}

/// The status of the first answer and where its body is, if all of it is there.
fn first_answer(heard: &[u8]) -> Option<(u16, Range<usize>)> {
    let start = heard.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let lines = String::from_utf8_lossy(&heard[..start]).to_lowercase();
    let status = lines.split(' ').nth(1)?.parse().ok()?;
    let length = lines.split("content-length: ").nth(1)?.split("\r\n").next()?.parse::<usize>().ok()?;
    (heard.len() >= start + length).then_some((status, start..start + length))
}
