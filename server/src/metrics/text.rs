//! A report as Prometheus reads it (text format 0.0.4). Pure.

use crate::peer::Figures;
use crate::status::Report;
use std::fmt::Write;

struct Exposition {
    text: String,
}

impl Exposition {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP nightkeep_{name} {help}\n# TYPE nightkeep_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.text, "nightkeep_{name}{labels} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    /// Of each row that has the value.
    fn gauges<T>(&mut self, name: &str, help: &str, rows: &[T], sample: impl Fn(&T) -> Option<(Labels<'_>, i128)>) {
        let samples: Vec<(Labels<'_>, i128)> = rows.iter().filter_map(sample).collect();
        if samples.is_empty() {
            return;
        }
        self.family(name, "gauge", help);
        for (labels, value) in samples {
            self.sample(name, &labels, value);
        }
    }
}

type Labels<'a> = Vec<(&'static str, &'a str)>;

pub fn exposition(report: &Report) -> String {
    let mut out = Exposition { text: String::new() };
    let server = &report.server;
    out.gauge("up", "The server answers.", 1);
    out.family("build_info", "gauge", "The version of the server.");
    out.sample("build_info", &[("version", server.version)], 1);
    out.gauge("start_time_seconds", "When the server began.", server.started);
    out.gauge("filesystem_size_bytes", "Size of the file system with the repositories.", server.disk_bytes);
    out.gauge("filesystem_available_bytes", "What is left of it.", server.disk_available_bytes);
    out.gauge("full", "1 if new backups are refused for want of space.", u8::from(server.full));
    out.gauge("sessions", "Sessions of clients.", report.sessions.len());
    out.gauge(
        "config_reload_success",
        "1 if the last reading of the configuration was taken.",
        u8::from(server.reload_ok),
    );
    out.family("received_bytes_total", "counter", "Bytes of records stored since the server began.");
    out.sample("received_bytes_total", &[], server.received_bytes);
    repositories(&mut out, report);
    datasets(&mut out, report);
    jobs(&mut out, report);
    peers(&mut out, report);
    out.text
}

fn repositories(out: &mut Exposition, report: &Report) {
    let families: [(&str, &str, fn(&crate::status::Repository) -> Option<u64>); 8] = [
        ("repository_up", "1 if the repository can be opened.", |r| Some(u64::from(r.failure.is_none()))),
        ("repository_packs", "Packs.", |r| Some(r.packs)),
        ("repository_stored_bytes", "Bytes of packs.", |r| Some(r.stored_bytes)),
        ("repository_content_bytes", "Bytes of all snapshots, as if each was stored by itself.", |r| {
            Some(r.content_bytes)
        }),
        ("repository_snapshots", "Snapshots that are not forgotten.", |r| Some(r.snapshots)),
        ("repository_forgotten_snapshots", "Snapshots that are forgotten and not yet removed.", |r| {
            Some(r.forgotten_snapshots)
        }),
        ("repository_lost_blobs", "Blobs that are lost and were not stored again.", |r| Some(r.lost_blobs)),
        ("repository_quota_bytes", "How many bytes of packs there may be.", |r| r.quota_bytes),
    ];
    for (name, help, value) in families {
        out.gauges(name, help, &report.repositories, |row| {
            value(row).map(|value| (vec![("repository", row.name.as_str())], i128::from(value)))
        });
    }
}

fn datasets(out: &mut Exposition, report: &Report) {
    let families: [(&str, &str, fn(&crate::status::Dataset) -> Option<i128>); 5] = [
        ("dataset_last_backup_timestamp_seconds", "When the last complete backup was received.", |d| {
            d.last.map(i128::from)
        }),
        ("dataset_max_age_seconds", "How old it may be.", |d| d.max_age_seconds.map(i128::from)),
        ("dataset_overdue", "1 if it is older, or there is none.", |d| Some(i128::from(u8::from(d.overdue)))),
        ("dataset_snapshots", "Snapshots that are not forgotten.", |d| Some(i128::from(d.snapshots))),
        ("dataset_size_bytes", "Size of the last backup.", |d| Some(i128::from(d.content_bytes))),
    ];
    for (name, help, value) in families {
        out.gauges(name, help, &report.datasets, |row| {
            let labels = vec![("repository", row.repository.as_str()), ("dataset", row.dataset.as_str())];
            value(row).map(|value| (labels, value))
        });
    }
}

fn jobs(out: &mut Exposition, report: &Report) {
    let past: Vec<_> =
        report.repositories.iter().flat_map(|row| row.done.iter().map(move |past| (row, past))).collect();
    let labels = |(row, past): &(&'_ crate::status::Repository, &'_ crate::status::Past)| -> (String, &'static str) {
        (row.name.clone(), past.kind)
    };
    for (name, help) in [
        ("job_last_end_timestamp_seconds", "When the last job of this kind ended."),
        ("job_last_success", "1 if it did what it should."),
    ] {
        if past.is_empty() {
            break;
        }
        out.family(name, "gauge", help);
        for row in &past {
            let (repository, kind) = labels(row);
            let value = if name == "job_last_success" { i64::from(row.1.failure.is_none()) } else { row.1.ended };
            out.sample(name, &[("repository", &repository), ("kind", kind)], value);
        }
    }
    out.gauges("job_running", "1 while a job of this kind is at work.", &report.jobs, |job| {
        Some((vec![("repository", job.repository.as_str()), ("kind", job.kind)], 1))
    });
}

fn peers(out: &mut Exposition, report: &Report) {
    let families: [(&str, &str, fn(&Figures) -> Option<i128>); 10] = [
        ("peer_lag_seconds", "Age of the oldest snapshot that one of the sites lacks.", |p| Some(p.lag_seconds.into())),
        ("peer_lag_snapshots", "Snapshots that one of the sites lacks.", |p| Some(p.lag_snapshots.into())),
        ("peer_lag_bytes", "What they said they added, less what has gone over.", |p| Some(p.lag_bytes.into())),
        ("peer_moved_bytes", "Bytes that went over since the server began.", |p| Some(p.moved_bytes.into())),
        ("peer_bytes_per_second", "Of the last ten seconds.", |p| Some(p.bytes_per_second.into())),
        ("peer_seconds_left", "Until nothing is lacking, at that rate.", |p| p.seconds_left.map(i128::from)),
        ("peer_max_lag_seconds", "How far it may be behind.", |p| Some(p.max_lag_seconds.into())),
        ("peer_overdue", "1 if it is further behind, or was not heard for longer.", |p| {
            Some(u8::from(p.overdue).into())
        }),
        ("peer_last_complete_timestamp_seconds", "When both sites last had everything.", |p| {
            p.last_complete.map(i128::from)
        }),
        ("peer_last_contact_timestamp_seconds", "When the peer was last heard.", |p| p.last_contact.map(i128::from)),
    ];
    for (name, help, value) in families {
        out.gauges(name, help, &report.peers, |row| {
            let labels = vec![("repository", row.repository.as_str()), ("peer", row.address.as_str())];
            value(row).map(|value| (labels, value))
        });
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_hold_anything() {
        let mut out = Exposition { text: String::new() };
        out.sample("x", &[("dataset", "a\"b\\c\nd")], 7);
        assert_eq!(out.text, "nightkeep_x{dataset=\"a\\\"b\\\\c\\nd\"} 7\n");
    }
}
