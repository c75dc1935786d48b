//! The one file that names quinn: endpoints, connections, streams of frames. Limits of `docs/protocol.md`, section 9.
//!
//! A reader judges a frame's length before it allocates, and allocates as bytes arrive.

use crate::congestion::{Arrived, Congestion};
use crate::error::{Error, Result};
use crate::identity::{NodeId, NodeKey};
use crate::message::{HEAD_LEN, Head, Message, record_head};
use crate::tls::{self, Admission, Purpose};
use aws_lc_rs::hmac;
use bytes::Bytes;
use quinn::congestion::{Controller, ControllerFactory};
use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use quinn::{ConnectionError, EndpointConfig, MtuDiscoveryConfig, ReadError, TransportConfig, VarInt, WriteError};
use quinn_proto::{HashedConnectionIdGenerator, RttEstimator};
use rustls::pki_types::CertificateDer;
use std::any::Any;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

pub const PORT: u16 = 4747;
/// Streams that a client may have open.
pub const STREAMS_MAX: u32 = 64;

/// A stream's window leaves room for others in the connection's: what one stream waits for may come on another.
const STREAM_WINDOW: u32 = 6 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
const CLIENT_STREAM_WINDOW: u32 = 2 << 20;
/// Of an end that reads from another site: there are several such streams, and more is under way on long lines.
const SITE_STREAM_WINDOW: u32 = 4 << 20;
const SITE_CONNECTION_WINDOW: u32 = 16 << 20;
/// What a site sends before it has heard of what arrived: 32 packets.
const INITIAL_WINDOW: u64 = 32 * 1200;
/// What the system keeps of datagrams that came while nobody read, as far as it lets us have it.
const SOCKET_BYTES: usize = 4 << 20;
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const IDLE_MAX: Duration = Duration::from_secs(30);
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
const INCOMING_MAX: usize = 256;
/// Handshakes at once with addresses that may be forged; whoever comes then validates its address first, which costs a
/// round trip (Retry; RFC 9000, section 8.1).
const UNVALIDATED_MAX: usize = 32;
/// A frame that was begun goes on at least this often, and at [`FRAME_BYTES_PER_SECOND_MIN`] on the whole.
const STALL_MAX: Duration = Duration::from_secs(60);
const FRAME_BYTES_PER_SECOND_MIN: u64 = 1024;
/// A frame's memory grows by as much at once as this.
const GROWTH_MAX: usize = 256 << 10;
/// Packets grow up to this where the path bears it. Ten of them, which quinn hands to the kernel at once, must fit into one
/// buffer of UDP's 65,507 bytes: otherwise the kernel refuses, and each packet of the socket goes alone from then on.
const DATAGRAM_BYTES_MAX: u16 = 6500;
/// For the last packet to leave this machine.
const PARTING_MAX: Duration = Duration::from_millis(20);
/// TLS alert "access denied", as QUIC carries it.
const ACCESS_DENIED: u64 = 0x100 + 49;

/// Why a connection is closed on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Close {
    Done = 0,
    Violation = 1,
    Stopping = 2,
    Revoked = 3,
    Busy = 4,
    TooSlow = 5,
}

pub struct Listener {
    endpoint: quinn::Endpoint,
    /// Held by every arrival whose address nobody validated.
    unvalidated: Arc<()>,
}

/// Somebody who asks to be let in.
pub struct Arrival {
    incoming: quinn::Incoming,
    _unvalidated: Option<Arc<()>>,
}

#[derive(Clone)]
pub struct Connection {
    inner: quinn::Connection,
    /// Keeps a client's endpoint alive.
    _endpoint: Option<quinn::Endpoint>,
    peer: NodeId,
    purpose: Purpose,
    place: Arc<str>,
}

pub struct Writer(quinn::SendStream);

pub struct Reader(quinn::RecvStream);

impl Listener {
    pub fn bind(address: SocketAddr, key: &NodeKey, admission: Admission) -> Result<Listener> {
        let failed = |reason: String| Error::Unreachable { place: address.to_string(), reason };
        let crypto = QuicServerConfig::try_from(tls::server(key, admission)?).map_err(|e| failed(e.to_string()))?;
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let windows = (STREAM_WINDOW, CONNECTION_WINDOW);
        config.transport_config(Arc::new(transport(windows)));
        config.max_incoming(INCOMING_MAX).incoming_buffer_size(64 << 10).incoming_buffer_size_total(8 << 20);
        let socket = bind(address).map_err(|error| failed(error.to_string()))?;
        let endpoint =
            quinn::Endpoint::new(endpoint_config(Some(key)), Some(config), socket, Arc::new(quinn::TokioRuntime));
        let endpoint = endpoint.map_err(|error| failed(error.to_string()))?;
        Ok(Listener { endpoint, unvalidated: Arc::new(()) })
    }

    pub fn address(&self) -> Option<SocketAddr> {
        self.endpoint.local_addr().ok()
    }

    /// The next one; None once closed. While many are on their way, one whose address is validated.
    pub async fn accept(&self) -> Option<Arrival> {
        loop {
            let incoming = self.endpoint.accept().await?;
            if incoming.remote_address_validated() {
                return Some(Arrival { incoming, _unvalidated: None });
            }
            if Arc::strong_count(&self.unvalidated) <= UNVALIDATED_MAX {
                return Some(Arrival { incoming, _unvalidated: Some(Arc::clone(&self.unvalidated)) });
            }
            // It fails only for a validated address.
            let _ = incoming.retry();
        }
    }

    pub fn open_connections(&self) -> usize {
        self.endpoint.open_connections()
    }

    pub async fn close(&self, close: Close, reason: &str) {
        self.endpoint.close(code(close), reason.as_bytes());
        self.endpoint.wait_idle().await;
    }
}

impl Arrival {
    pub fn address(&self) -> SocketAddr {
        self.incoming.remote_address()
    }

    pub fn refuse(self) {
        self.incoming.refuse();
    }

    /// The handshake.
    pub async fn admit(self) -> Result<Connection> {
        let place = self.incoming.remote_address().to_string();
        let connecting = self.incoming.accept().map_err(|error| lost(&place, error))?;
        let inner = timeout(HANDSHAKE_MAX, connecting).await.map_err(|_| Error::lost("the handshake took too long"))?;
        Connection::new(inner.map_err(|error| lost(&place, error))?, None, place)
    }
}

impl Connection {
    /// `place` is HOST:PORT.
    pub async fn connect(place: &str, key: &NodeKey, server: NodeId, purpose: Purpose) -> Result<Connection> {
        Connection::connect_with(place, key, server, (purpose, (CLIENT_STREAM_WINDOW, CONNECTION_WINDOW))).await
    }

    /// As [`Connection::connect`], to another site.
    pub async fn connect_site(place: &str, key: &NodeKey, server: NodeId) -> Result<Connection> {
        Connection::connect_with(place, key, server, (Purpose::Work, (SITE_STREAM_WINDOW, SITE_CONNECTION_WINDOW)))
            .await
    }

    async fn connect_with(place: &str, key: &NodeKey, server: NodeId, how: (Purpose, Windows)) -> Result<Connection> {
        let failed = |reason: String| Error::Unreachable { place: place.to_owned(), reason };
        let addresses = tokio::net::lookup_host(place).await.map_err(|error| failed(error.to_string()))?;
        let mut last = failed("it has no address".into());
        for address in addresses {
            match Connection::connect_to(address, place, key, server, how).await {
                Err(error @ (Error::Unreachable { .. } | Error::Lost { .. })) => last = error,
                outcome => return outcome,
            }
        }
        Err(last)
    }

    async fn connect_to(
        address: SocketAddr,
        place: &str,
        key: &NodeKey,
        server: NodeId,
        (purpose, windows): (Purpose, Windows),
    ) -> Result<Connection> {
        let failed = |reason: String| Error::Unreachable { place: place.to_owned(), reason };
        let (crypto, mismatch) = tls::client(key, server, purpose)?;
        let crypto = QuicClientConfig::try_from(crypto).map_err(|error| failed(error.to_string()))?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(transport(windows)));
        let any: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = bind(any).map_err(|error| failed(error.to_string()))?;
        let endpoint = quinn::Endpoint::new(endpoint_config(None), None, socket, Arc::new(quinn::TokioRuntime))
            .map_err(|error| failed(error.to_string()))?;
        // Nobody looks at the name: the key is what is pinned.
        let connecting = endpoint.connect_with(config, address, "nightkeep").map_err(|e| failed(e.to_string()))?;
        match timeout(HANDSHAKE_MAX, connecting).await {
            Ok(Ok(inner)) => Connection::new(inner, Some(endpoint), place.to_owned()),
            Ok(Err(_)) if mismatch.load(Ordering::SeqCst) => Err(Error::WrongServer { place: place.to_owned() }),
            Ok(Err(error)) => Err(match lost(place, error) {
                Error::Lost { reason } => failed(reason),
                other => other,
            }),
            Err(_) => Err(failed("nobody answers".into())),
        }
    }

    fn new(inner: quinn::Connection, endpoint: Option<quinn::Endpoint>, place: String) -> Result<Connection> {
        let odd = || Error::violation("a handshake without key or purpose");
        let keys = inner.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
        let peer = keys.and_then(|keys| keys.first().and_then(|key| NodeId::from_spki(key))).ok_or_else(odd)?;
        let data = inner.handshake_data().and_then(|any| any.downcast::<HandshakeData>().ok()).ok_or_else(odd)?;
        let purpose = data.protocol.and_then(|alpn| Purpose::of(&alpn)).ok_or_else(odd)?;
        Ok(Connection { inner, _endpoint: endpoint, peer, purpose, place: place.into() })
    }

    pub fn peer(&self) -> NodeId {
        self.peer
    }

    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// Where the peer is now.
    pub fn address(&self) -> SocketAddr {
        self.inner.remote_address()
    }

    pub async fn open(&self) -> Result<(Writer, Reader)> {
        let (send, receive) = self.inner.open_bi().await.map_err(|error| lost(&self.place, error))?;
        Ok((Writer(send), Reader(receive)))
    }

    /// The next stream that the peer opens.
    pub async fn accept(&self) -> Result<(Writer, Reader)> {
        let (send, receive) = self.inner.accept_bi().await.map_err(|error| lost(&self.place, error))?;
        Ok((Writer(send), Reader(receive)))
    }

    /// Bytes that only this connection's two ends know.
    pub fn exported(&self, label: &[u8]) -> Result<[u8; 32]> {
        let mut bytes = [0; 32];
        let exported = self.inner.export_keying_material(&mut bytes, label, b"");
        exported.map(|()| bytes).map_err(|_| Error::violation("TLS exports nothing"))
    }

    pub fn close(&self, close: Close, reason: &str) {
        self.inner.close(code(close), reason.as_bytes());
    }

    /// Sends what says that it is over. It is not waited for until that has arrived, which QUIC gives three round trips: a peer
    /// that does not hear of it finds out by itself.
    pub async fn close_gently(&self) {
        self.close(Close::Done, "");
        if let Some(endpoint) = &self._endpoint {
            let _ = timeout(PARTING_MAX, endpoint.wait_idle()).await;
        }
    }

    /// Why it ended, once it has.
    pub async fn ended(&self) -> Error {
        lost(&self.place, self.inner.closed().await)
    }

    pub fn is_open(&self) -> bool {
        self.inner.close_reason().is_none()
    }
}

impl Writer {
    pub async fn send(&mut self, message: &Message) -> Result<()> {
        self.send_frame(Bytes::from(message.frame())).await
    }

    /// Bytes that are frames, or are to be taken for some.
    pub async fn send_frame(&mut self, bytes: Bytes) -> Result<()> {
        self.0.write_chunk(bytes).await.map_err(unwritten)
    }

    /// A record, without copying it.
    pub async fn send_record(&mut self, record: Bytes) -> Result<()> {
        let head = Bytes::copy_from_slice(&record_head(&record));
        self.0.write_all_chunks(&mut [head, record]).await.map_err(unwritten)
    }

    /// Nothing follows.
    pub fn finish(&mut self) {
        // It fails only if it was finished before or the stream is gone.
        let _ = self.0.finish();
    }

    /// Nobody reads on.
    pub async fn stopped(&mut self) {
        let _ = self.0.stopped().await;
    }
}

impl Reader {
    /// The next frame; None at the end of the stream. Waits for its beginning as long as the connection lives.
    pub async fn next(&mut self) -> Result<Option<Message>> {
        let mut head = [0; HEAD_LEN];
        let mut filled = 0;
        while filled < HEAD_LEN {
            let room = head.get_mut(filled..).unwrap_or_default();
            let reading = self.0.read(room);
            let read =
                if filled == 0 { reading.await } else { timeout(STALL_MAX, reading).await.map_err(|_| slow())? };
            match read.map_err(unread)? {
                Some(len) => filled += len,
                None if filled == 0 => return Ok(None),
                None => return Err(Error::violation("a stream ended within a frame")),
            }
        }
        let head = Head::decode(&head)?;
        let body = self.body(head.body_len).await?;
        Message::decode(head.number, body).map(Some)
    }

    /// As [`Reader::next`], where something must follow.
    pub async fn expect(&mut self) -> Result<Message> {
        self.next().await?.ok_or_else(|| Error::violation("a stream ended without an answer"))
    }

    async fn body(&mut self, len: usize) -> Result<Vec<u8>> {
        let began = Instant::now();
        let mut body = Vec::with_capacity(len.min(GROWTH_MAX));
        while body.len() < len {
            let wanted = len - body.len();
            let chunk = timeout(STALL_MAX, self.0.read_chunk(wanted, true)).await.map_err(|_| slow())?;
            let chunk = chunk.map_err(unread)?.ok_or_else(|| Error::violation("a stream ended within a frame"))?;
            body.extend_from_slice(&chunk.bytes);
            let elapsed = began.elapsed();
            if elapsed > STALL_MAX && (body.len() as u64) < elapsed.as_secs() * FRAME_BYTES_PER_SECOND_MIN {
                return Err(slow());
            }
        }
        Ok(body)
    }
}

fn bind(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    // With less it works too.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BYTES);
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET_BYTES);
    Ok(socket)
}

/// Receive windows of a stream and of the connection, in bytes.
type Windows = (u32, u32);

struct Begin;

/// Between quinn and what decides how fast an end sends (`docs/replication.md`, section 7).
#[derive(Clone)]
struct Control(Congestion);

impl ControllerFactory for Begin {
    fn build(self: Arc<Self>, _now: std::time::Instant, packet: u16) -> Box<dyn Controller> {
        Box::new(Control(Congestion::new(INITIAL_WINDOW, packet)))
    }
}

impl Controller for Control {
    fn on_ack(
        &mut self,
        now: std::time::Instant,
        sent: std::time::Instant,
        bytes: u64,
        is_idle: bool,
        rtt: &RttEstimator,
    ) {
        self.0.arrived(Arrived { now, sent, bytes, is_idle, round_trip: rtt.get(), shortest: rtt.min() });
    }

    fn on_congestion_event(
        &mut self,
        now: std::time::Instant,
        sent: std::time::Instant,
        is_persistent: bool,
        lost_bytes: u64,
    ) {
        self.0.lost(now, sent, lost_bytes, is_persistent);
    }

    fn on_mtu_update(&mut self, packet: u16) {
        self.0.set_packet(packet);
    }

    fn window(&self) -> u64 {
        self.0.window()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        INITIAL_WINDOW
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

fn transport((stream, connection): Windows) -> TransportConfig {
    let mut config = TransportConfig::default();
    config.congestion_controller_factory(Arc::new(Begin));
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(DATAGRAM_BYTES_MAX);
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(stream))
        .receive_window(VarInt::from_u32(connection))
        .send_window(u64::from(connection))
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(quinn::IdleTimeout::try_from(IDLE_MAX).ok())
        .mtu_discovery_config(Some(mtu));
    config
}

/// A server that was started again tells clients of its former life at once that their connections are gone: by resets
/// that it signs with what its key says.
fn endpoint_config(server: Option<&NodeKey>) -> EndpointConfig {
    let mut config = match server {
        None => EndpointConfig::default(),
        Some(key) => {
            let reset = Zeroizing::new(blake3::derive_key("nightkeep v1 stateless reset", key.to_pkcs8()));
            let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, reset.as_slice())));
            // What comes for another life's connection is answered only if its id is known for one of this server.
            let ids = blake3::derive_key("nightkeep v1 connection ids", key.to_pkcs8());
            let [a, b, c, d, e, f, g, h, ..] = ids;
            let ids = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
            config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
            config
        }
    };
    // It fails only below 1200.
    let _ = config.max_udp_payload_size(DATAGRAM_BYTES_MAX);
    config
}

fn code(close: Close) -> VarInt {
    VarInt::from_u32(close as u32)
}

fn slow() -> Error {
    Error::Closed { code: Close::TooSlow as u32, reason: "a frame took too long".into() }
}

fn lost(place: &str, error: ConnectionError) -> Error {
    match error {
        ConnectionError::ApplicationClosed(close) => Error::Closed {
            code: u32::try_from(close.error_code.into_inner()).unwrap_or(u32::MAX),
            reason: String::from_utf8_lossy(&close.reason).into_owned(),
        },
        ConnectionError::ConnectionClosed(close) if u64::from(close.error_code) == ACCESS_DENIED => {
            Error::Unknown { place: place.to_owned() }
        }
        ConnectionError::TimedOut => Error::lost("nobody answers any more"),
        other => Error::lost(other.to_string()),
    }
}

fn unwritten(error: WriteError) -> Error {
    match error {
        WriteError::ConnectionLost(error) => lost("the peer", error),
        other => Error::lost(other.to_string()),
    }
}

fn unread(error: ReadError) -> Error {
    match error {
        ReadError::ConnectionLost(error) => lost("the peer", error),
        other => Error::lost(other.to_string()),
    }
}
