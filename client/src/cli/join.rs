//! `join`: this machine becomes a client of a server.

use super::Exit;
use super::console::Console;
use crate::clock;
use crate::dataset;
use crate::error::{Error, Result};
use crate::names;
use crate::remote;
use crate::session;
use protocol::token::Token;
use serde_json::json;
use std::io::BufRead;
use zeroize::Zeroizing;

const EXAMPLES: &str = "\
The token is what `nightkeepd invite` prints on the server. It serves once. `-` reads it from standard input, so that it \
does not stand in the list of processes.

EXAMPLES
  nightkeep join -
  nightkeep join nk1aeaqcaibaeaqcaib";

/// Join a server with a token of its administrator
///
/// Makes this machine's key if it has none, and remembers the server's.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// nk1..., or - to read it from standard input
    token: String,
}

pub fn run(console: &Console, arguments: &Arguments) -> Result<Exit> {
    let text = match arguments.token.as_str() {
        "-" => {
            let mut line = Zeroizing::new(String::new());
            let read = std::io::stdin().lock().read_line(&mut line);
            read.map_err(|error| Error::io("cannot read", "standard input", error))?;
            line
        }
        given => Zeroizing::new(given.to_owned()),
    };
    let token = Token::from_text(&text).map_err(|error| Error::argument("token", error.to_string()))?;
    if token.expires <= clock::seconds() {
        console.warn("by this machine's clock the token has expired");
    }
    let writer = session::writer(&console.settings)?;
    let joined = remote::join(&console.settings, &token, writer.public_key(), &dataset::host())?;
    let datasets: Vec<_> = joined.datasets.iter().map(|pattern| names::shown(pattern.as_bytes())).collect();
    console.outcome(&json!({
        "message_type": "summary",
        "repository": joined.place.to_string(),
        "role": joined.role.text(),
        "datasets": joined.datasets,
        "server_key": joined.server.to_string(),
        "client_key": joined.client.to_string(),
    }))?;
    let scope = if datasets.is_empty() { "all datasets".to_owned() } else { datasets.join(", ") };
    console.say(&format!("Joined {} as {} of {scope}.", joined.place, joined.role.text()))?;
    console.say(&format!("The server's key: {}", joined.server))?;
    console.say(&format!("This machine's:   {}", joined.client))?;
    Ok(Exit::Done)
}
