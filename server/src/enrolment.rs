//! The answering end of an enrolment (`docs/protocol.md`, section 3).

use crate::hub::Hub;
use crate::registry::Enrolling;
use crate::storage::{blocking, seconds};
use protocol::connection::{Close, Connection};
use protocol::message::{Code, Message, Refusal, VERSION};
use protocol::token::EXPORTER_LABEL;
use protocol::{Error, Result};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// From its first frame to its last.
const ENROLMENT_MAX: Duration = Duration::from_secs(10);

pub async fn serve(hub: &Arc<Hub>, connection: &Connection) {
    let outcome = timeout(ENROLMENT_MAX, enrol(hub, connection)).await;
    let (client, address) = (connection.peer(), connection.address());
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%client, %address, %error, "an enrolment failed"),
        Err(_) => {
            connection.close(Close::TooSlow, "");
            tracing::warn!(%client, %address, "an enrolment took too long");
        }
    }
}

async fn enrol(hub: &Arc<Hub>, connection: &Connection) -> Result<()> {
    let (mut writer, mut reader) = connection.accept().await?;
    let answer = match reader.expect().await? {
        Message::Enroll { version, .. } if version != VERSION => Message::Refused(Refusal::new(
            Code::Unsupported,
            "the protocol",
            format!("version {VERSION} is spoken here"),
        )),
        Message::Enroll { invitation, proof, writer, name, .. } => {
            let (hub, key) = (Arc::clone(hub), connection.peer());
            let exported = connection.exported(EXPORTER_LABEL)?;
            let decided = blocking(move || {
                let enrolling = Enrolling { key, writer, name: &printable(&name), invitation, proof, exported };
                hub.registry.enrol(&enrolling, seconds())
            });
            match decided.await {
                Some(Ok(Ok(granted))) => {
                    let (client, address) = (connection.peer(), connection.address());
                    let (repository, role) = (&granted.repository, granted.role.text());
                    tracing::info!(%client, %address, repository, role, "enrolled");
                    let (repository, role, datasets) = (granted.repository, granted.role, granted.datasets);
                    Message::Enrolled { repository, role, datasets }
                }
                Some(Ok(Err(refusal))) => {
                    tracing::warn!(client = %connection.peer(), address = %connection.address(), %refusal, "not enrolled");
                    Message::Refused(refusal)
                }
                Some(Err(error)) => {
                    tracing::error!(%error, "an enrolment could not be recorded");
                    Message::Refused(Refusal::new(
                        Code::Failed,
                        "",
                        "the server could not do it; its log has the reason",
                    ))
                }
                None => Message::Refused(Refusal::new(Code::Failed, "", "the server failed")),
            }
        }
        other => return Err(Error::violation(format!("{} in an enrolment", other.name()))),
    };
    writer.send(&answer).await?;
    writer.finish();
    writer.stopped().await;
    Ok(())
}

/// A name that a client gives itself, fit for a terminal and a log.
fn printable(name: &str) -> String {
    let name: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
    if name.is_empty() { "unnamed".into() } else { name }
}
