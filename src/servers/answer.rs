//! The questions that only a server which is ready answers.

use std::path::Path;
use std::{io, time::Duration};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// Limit for one question to a server; after it the question is repeated on a new connection.
pub(super) const QUESTION_TIME_MAX: Duration = Duration::from_millis(500);
/// A session of the role `coupon` in the database `coupon`, and its end.
const SESSION: &[u8] = b"\0\0\0\x25\0\x03\0\0user\0coupon\0database\0coupon\0\0X\0\0\0\x04";
const SESSION_READY: &[u8] = b"Z\0\0\0\x05I";
/// The first answer holds the process id; the second comes when all data is loaded.
const PING: &str = "INFO server\r\nPING\r\n";
const PONG: &[u8] = b"+PONG";
/// After the login. The greeting holds the server's name, and the answer the account of `JetStream`.
const ACCOUNT: &str = "SUB i 1\r\nPUB $JS.API.INFO i 0\r\n\r\n";
const ACCOUNT_STREAMS: &[u8] = b"\"streams\":";

/// User and password.
type Login = (String, String);

/// Whether the Postgres that listens on this socket takes a session.
pub(super) async fn postgres(socket: &Path) -> io::Result<bool> {
    ask(UnixStream::connect(socket).await?, SESSION, &[SESSION_READY]).await
}

/// Whether the Redis on this port is the process `pid`, and has its data.
pub(super) async fn redis(port: u16, login: Option<&Login>, pid: u32) -> io::Result<bool> {
    let login = login.map(|(user, password)| format!("AUTH {user} {password}\r\n"));
    let question = login.unwrap_or_default() + PING;
    let process = format!("process_id:{pid}\r\n");
    ask(connect(port).await?, question.as_bytes(), &[process.as_bytes(), PONG]).await
}

/// Whether the NATS on this port has this name, and serves `JetStream`.
pub(super) async fn nats(port: u16, login: Option<&Login>, name: &str) -> io::Result<bool> {
    let login = login.map(|(user, password)| format!(r#","user":"{user}","pass":"{password}""#));
    let question = format!("CONNECT {{\"verbose\":false{}}}\r\n{ACCOUNT}", login.unwrap_or_default());
    ask(connect(port).await?, question.as_bytes(), &[name.as_bytes(), ACCOUNT_STREAMS]).await
}

async fn connect(port: u16) -> io::Result<TcpStream> {
    TcpStream::connect(("127.0.0.1", port)).await
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
