//! `/metrics` and `/health` over HTTP/1.1: as little of it as two fixed answers need, bounded in connections, bytes and time.

mod text;

use crate::hub::Hub;
use crate::settings::Settings;
use crate::status::report;
use crate::storage::blocking;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

const CONNECTIONS_MAX: usize = 16;
const REQUEST_BYTES_MAX: usize = 4096;
const EXCHANGE_MAX: Duration = Duration::from_secs(10);

/// None if it is not wanted, or cannot be had, which the log tells: backups go on without it.
pub async fn bind(settings: &Settings) -> Option<TcpListener> {
    let address = settings.http?;
    match TcpListener::bind(address).await {
        Ok(listener) => {
            let address = listener.local_addr().unwrap_or(address);
            tracing::info!(%address, "metrics and health");
            Some(listener)
        }
        Err(error) => {
            tracing::error!(%address, %error, "there will be no metrics");
            None
        }
    }
}

/// Until the server stops.
pub async fn serve(hub: Arc<Hub>, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // Whoever comes while all are taken waits in the system's queue.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let hub = Arc::clone(&hub);
                tokio::spawn(async move {
                    let _place = place;
                    // Whoever asks too slowly, or is gone, is not answered.
                    let _ = timeout(EXCHANGE_MAX, exchange(hub, stream)).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a request for metrics could not be taken");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn exchange(hub: Arc<Hub>, mut stream: TcpStream) -> std::io::Result<()> {
    let Some(head) = read_head(&mut stream).await? else { return Ok(()) };
    let (status, kind, body) = match requested(&head) {
        Ok((path, is_head)) => {
            let (status, kind, body) = answer(hub, path).await;
            if is_head {
                return respond(&mut stream, status, kind, body.len(), "").await;
            }
            (status, kind, body)
        }
        Err(status) => (status, PLAIN, format!("{status}\n")),
    };
    respond(&mut stream, status, kind, body.len(), &body).await
}

const PLAIN: &str = "text/plain; charset=utf-8";
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All up to the empty line; None of who sent none within the limit.
async fn read_head(stream: &mut TcpStream) -> std::io::Result<Option<Vec<u8>>> {
    let mut head = Vec::with_capacity(512);
    let mut buffer = [0; 512];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        let read = stream.read(&mut buffer).await?;
        head.extend_from_slice(buffer.get(..read).unwrap_or_default());
        if read == 0 || head.len() > REQUEST_BYTES_MAX {
            return Ok(None);
        }
    }
    Ok(Some(head))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Path {
    Metrics,
    Health,
}

/// The path, and whether only the head of the answer is wanted; or the status of a refusal.
fn requested(head: &[u8]) -> Result<(Path, bool), &'static str> {
    let line = head.split(|byte| *byte == b'\r').next().and_then(|line| std::str::from_utf8(line).ok()).unwrap_or("");
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1" | "HTTP/1.0"), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err("400 Bad Request");
    };
    if !matches!(method, "GET" | "HEAD") {
        return Err("405 Method Not Allowed");
    }
    let path = match target.split('?').next() {
        Some("/metrics") => Path::Metrics,
        Some("/health") => Path::Health,
        _ => return Err("404 Not Found"),
    };
    Ok((path, method == "HEAD"))
}

async fn answer(hub: Arc<Hub>, path: Path) -> (&'static str, &'static str, String) {
    let found = blocking(move || report(&hub)).await;
    let report = match found {
        Some(Ok(report)) => report,
        Some(Err(error)) => {
            tracing::error!(%error, "the state of the server cannot be told");
            return ("503 Service Unavailable", PLAIN, "the server's log has the reason\n".into());
        }
        None => return ("500 Internal Server Error", PLAIN, "the server failed\n".into()),
    };
    match path {
        Path::Metrics => ("200 OK", EXPOSITION, text::exposition(&report)),
        Path::Health if report.faults.is_empty() => ("200 OK", PLAIN, "ok\n".into()),
        Path::Health => {
            ("503 Service Unavailable", PLAIN, report.faults.iter().map(|fault| format!("{fault}\n")).collect())
        }
    }
}

async fn respond(stream: &mut TcpStream, status: &str, kind: &str, len: usize, body: &str) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        let head = |text: &str| requested(format!("{text}\r\nHost: x\r\n\r\n").as_bytes());
        assert_eq!(head("GET /metrics HTTP/1.1"), Ok((Path::Metrics, false)));
        assert_eq!(head("HEAD /health?x=1 HTTP/1.0"), Ok((Path::Health, true)));
        assert_eq!(head("GET /metricsx HTTP/1.1"), Err("404 Not Found"));
        assert_eq!(head("GET /../metrics HTTP/1.1"), Err("404 Not Found"));
        assert_eq!(head("POST /metrics HTTP/1.1"), Err("405 Method Not Allowed"));
        for bad in ["GET /metrics", "", "GET  /metrics HTTP/1.1", "GET /metrics HTTP/2", "GET /metrics HTTP/1.1 x"] {
            assert_eq!(head(bad), Err("400 Bad Request"), "{bad}");
        }
        assert_eq!(requested(&[0xff; 40]), Err("400 Bad Request"));
    }
}
