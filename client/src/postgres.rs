//! PostgreSQL: databases saved through `pg_dump`, each as a snapshot of its own, and restored through a new database that
//! takes the name only once it is whole. `docs/postgres.md` has the rules.

mod quote;

mod name;

mod program;

mod query;

mod catalogue;

mod choose;

mod datasets;

mod archive;

mod watch;

mod facts;

mod dump;

mod save;

mod single;

pub mod restore;

pub use catalogue::{Database, Server};
pub use choose::Unmatched;
pub use dump::{Dump, Dumper};
pub use facts::{Format, Saved, export_name, is_database, is_globals};
pub use name::{Traditional, traditional_name};
pub use program::{Connection, Password, User};
pub use save::{DatabaseOutcome, Event, Options, PostgresOutcome, save};
pub use single::Single;
