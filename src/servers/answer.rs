//! What a server is asked to learn whether it is ready.

use std::{io, time::Duration};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::{Server, kind::Kind};

/// Limit for one question to a server; after it the question is asked on a new connection.
pub(super) const QUESTION_TIME_MAX: Duration = Duration::from_millis(500);
/// A session of the role `coupon` in the database `coupon`, and its end.
const SESSION: &[u8] = b"\0\0\0\x25\0\x03\0\0user\0coupon\0database\0coupon\0\0X\0\0\0\x04";
const SESSION_READY: &[u8] = b"Z\0\0\0\x05I";
/// The number of the process is in the first answer; the second comes when all data is loaded.
const PING: &str = "INFO server\r\nPING\r\n";
const PONG: &[u8] = b"+PONG";
/// After the login. The greeting names the server; the answer is the account of `JetStream`.
const ACCOUNT: &str = "SUB i 1\r\nPUB $JS.API.INFO i 0\r\n\r\n";
const ACCOUNT_STREAMS: &[u8] = b"\"streams\":";

impl Server {
    /// Asks for what only this very server can answer, and only once it is ready.
    pub(super) async fn ask(&self) -> io::Result<bool> {
        let connect = || TcpStream::connect(("127.0.0.1", self.port));
        let login = self.setup.login.as_ref();
        match self.kind {
            Kind::Postgres => {
                let socket = self.dir.join(format!(".s.PGSQL.{}", self.port));
                let stream = UnixStream::connect(socket).await?;
                ask(stream, SESSION, &[SESSION_READY]).await
            }
            Kind::Redis => {
                let process = format!("process_id:{}\r\n", self.pid().unwrap_or_default());
                let login = login.map(|(user, password)| format!("AUTH {user} {password}\r\n"));
                let question = login.unwrap_or_default() + PING;
                ask(connect().await?, question.as_bytes(), &[process.as_bytes(), PONG]).await
            }
            Kind::Nats => {
                let set = self.set();
                let login = login.map(|(user, password)| format!(r#","user":"{user}","pass":"{password}""#));
                let login = login.unwrap_or_default();
                let question = format!("CONNECT {{\"verbose\":false{login}}}\r\n{ACCOUNT}");
                ask(connect().await?, question.as_bytes(), &[set.as_bytes(), ACCOUNT_STREAMS]).await
            }
        }
    }
}

/// Whether all replies come before the other side closes.
async fn ask<S>(mut stream: S, question: &[u8], replies: &[&[u8]]) -> io::Result<bool>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(question).await?;
    let mut heard = Vec::new();
    let has = |heard: &[u8], reply: &[u8]| heard.windows(reply.len()).any(|part| part == reply);
    while !replies.iter().all(|reply| has(&heard, reply)) {
        if stream.read_buf(&mut heard).await? == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}
