//! Events as lines of a log file, in the languages of those who read it. One line is one line: what an item's name or a
//! program's message has of control characters is escaped. Pure.

use super::config::Language;
use super::event::{Event, Moment, Saved};
use super::verdict::Verdict;
use crate::names;
use crate::units::{format_count, format_elapsed, format_size};

/// The line without its time.
pub fn line(event: &Event, language: Language) -> String {
    let text = match language {
        Language::English => english(event),
        Language::French => french(event),
    };
    let text = match event.job() {
        Some(job) => format!("{job}: {text}"),
        None => text,
    };
    one_line(&text)
}

pub fn one_line(text: &str) -> String {
    names::printable(&text.trim_end().replace('\n', " / "))
}

fn english(event: &Event) -> String {
    match event {
        Event::RunBegins { run, host, repository, jobs, command_line } => {
            format!(
                "begin of run {run} on {host}, jobs {}, repository {repository}, called as: {command_line}",
                jobs.join(" ")
            )
        }
        Event::JobBegins { .. } => "begin".into(),
        Event::Found { database, .. } => format!("database found: {}", shown(database)),
        Event::Counted { databases, .. } => format!("databases found: {databases}"),
        Event::Saved { saved, .. } => match &saved.database {
            Some(database) => format!("dump of {} finished: {}", shown(database), figures(saved)),
            None => format!("{} finished: {}", saved.dataset, figures(saved)),
        },
        Event::Databases { selected, saved, .. } if selected == saved => {
            format!("databases found: {selected}, saved: {saved}; no error in the dumps")
        }
        Event::Databases { selected, saved, .. } => {
            format!("databases found: {selected}, saved: {saved}, FAILED: {}", selected.saturating_sub(*saved))
        }
        Event::Note { text, .. } => format!("note: {text}"),
        Event::Problem { item, reason, .. } => format!("error: {}: {reason}", shown(item)),
        Event::Failed { what, cause, hint, .. } => format!("error: {what}: {cause}{}", aside(hint)),
        Event::HookBegins { moment, .. } => format!("hook {} begins", moment.word()),
        Event::HookSays { moment, line, .. } => format!("hook {} says: {line}", moment.word()),
        Event::HookEnds { moment, elapsed, .. } => {
            format!("hook {} finished in {}", moment.word(), format_elapsed(*elapsed))
        }
        Event::Waits { cause, wait, tries, tries_max } => {
            format!(
                "the repository is away ({cause}); try {tries} of {tries_max}, the next in {}",
                format_elapsed(*wait)
            )
        }
        Event::Forgot { forgotten, kept, .. } => format!("snapshots forgotten: {forgotten}, kept: {kept}"),
        Event::Pruned { bytes_freed } => format!("pruned: {} freed", format_size(*bytes_freed)),
        Event::JobEnds { ending, elapsed, .. } => {
            format!("end, {} after {}", ending.verdict.word(), format_elapsed(*elapsed))
        }
        Event::Transferred { repository, bytes, added_bytes } => {
            format!(
                "transfer to {repository} finished: {} saved, {} stored anew",
                bytes_text(*bytes),
                format_size(*added_bytes)
            )
        }
        Event::RunEnds { run, ending, jobs, jobs_done, elapsed } => format!(
            "end of run {run}: {}, exit code {}, jobs without error: {jobs_done} of {jobs}, {}",
            ending.verdict.word(),
            ending.code,
            format_elapsed(*elapsed)
        ),
    }
}

fn french(event: &Event) -> String {
    match event {
        Event::RunBegins { run, host, repository, jobs, command_line } => format!(
            "début de la sauvegarde {run} sur {host}, travaux {}, dépôt {repository}, ligne de commande : {command_line}",
            jobs.join(" ")
        ),
        Event::JobBegins { .. } => "début".into(),
        Event::Found { database, .. } => format!("base trouvée : {}", shown(database)),
        Event::Counted { databases, .. } => format!("nombre de bases trouvées : {databases}"),
        Event::Saved { saved, .. } => match &saved.database {
            Some(database) => format!("le dump de {} est fini : {}", shown(database), figures_in_french(saved)),
            None => format!("{} est fini : {}", saved.dataset, figures_in_french(saved)),
        },
        Event::Databases { selected, saved, .. } if selected == saved => {
            format!("bases trouvées : {selected}, sauvegardées : {saved} ; pas d'erreur sur les dumps")
        }
        Event::Databases { selected, saved, .. } => {
            format!(
                "bases trouvées : {selected}, sauvegardées : {saved}, EN ERREUR : {}",
                selected.saturating_sub(*saved)
            )
        }
        Event::Note { text, .. } => format!("remarque : {text}"),
        Event::Problem { item, reason, .. } => format!("erreur : {} : {reason}", shown(item)),
        Event::Failed { what, cause, hint, .. } => format!("erreur : {what} : {cause}{}", aside(hint)),
        Event::HookBegins { moment, .. } => format!("début de la commande {}", of_hook(*moment)),
        Event::HookSays { moment, line, .. } => format!("la commande {} dit : {line}", of_hook(*moment)),
        Event::HookEnds { moment, elapsed, .. } => {
            format!("la commande {} est finie en {}", of_hook(*moment), format_elapsed(*elapsed))
        }
        Event::Waits { cause, wait, tries, tries_max } => format!(
            "le dépôt est absent ({cause}) ; essai {tries} sur {tries_max}, le prochain dans {}",
            format_elapsed(*wait)
        ),
        Event::Forgot { forgotten, kept, .. } => format!("instantanés oubliés : {forgotten}, gardés : {kept}"),
        Event::Pruned { bytes_freed } => format!("nettoyage : {} libérés", format_size(*bytes_freed)),
        Event::JobEnds { ending, elapsed, .. } => {
            format!("fin, {} après {}", in_french(ending.verdict), format_elapsed(*elapsed))
        }
        Event::Transferred { repository, bytes, added_bytes } => format!(
            "transfert vers {repository} terminé : {} sauvegardés, {} nouveaux",
            octets(*bytes),
            format_size(*added_bytes)
        ),
        Event::RunEnds { run, ending, jobs, jobs_done, elapsed } => format!(
            "fin de la sauvegarde {run} : {}, code de retour {}, travaux sans erreur : {jobs_done} sur {jobs}, {}",
            in_french(ending.verdict),
            ending.code,
            format_elapsed(*elapsed)
        ),
    }
}

/// Where the causes stand.
pub fn consult(language: Language, error_file: &str) -> String {
    match language {
        Language::English => format!("there were errors: see {error_file}"),
        Language::French => format!("il y a eu des erreurs : consultez le fichier {error_file}"),
    }
}

/// That an earlier error file was removed.
pub fn removed(language: Language, error_file: &str) -> String {
    match language {
        Language::English => format!("no error: the error file {error_file} was removed"),
        Language::French => format!("pas d'erreur : le fichier d'erreurs {error_file} est détruit"),
    }
}

fn of_hook(moment: Moment) -> &'static str {
    match moment {
        Moment::Before => "préalable",
        Moment::After => "finale",
        Moment::OnFailure => "d'échec",
    }
}

fn in_french(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Done => "réussie",
        Verdict::Incomplete => "incomplète",
        Verdict::Failed => "échouée",
        Verdict::Interrupted => "interrompue",
    }
}

fn figures(saved: &Saved) -> String {
    let snapshot = match &saved.snapshot {
        Some(id) => format!("snapshot {}", short(id)),
        None => "unchanged, no new snapshot".into(),
    };
    let problems =
        if saved.problems == 0 { String::new() } else { format!(", INCOMPLETE: {} problems", saved.problems) };
    let (bytes, added) = (bytes_text(saved.bytes), format_size(saved.added_bytes));
    format!("{bytes} in {}, {added} stored anew, {snapshot}{problems}", format_elapsed(saved.elapsed))
}

fn figures_in_french(saved: &Saved) -> String {
    let snapshot = match &saved.snapshot {
        Some(id) => format!("instantané {}", short(id)),
        None => "inchangé, pas de nouvel instantané".into(),
    };
    let problems =
        if saved.problems == 0 { String::new() } else { format!(", INCOMPLET : {} problèmes", saved.problems) };
    let (bytes, added) = (octets(saved.bytes), format_size(saved.added_bytes));
    format!("{bytes} en {}, {added} nouveaux, {snapshot}{problems}", format_elapsed(saved.elapsed))
}

fn bytes_text(bytes: u64) -> String {
    format!("{} bytes", format_count(bytes))
}

fn octets(bytes: u64) -> String {
    format!("{} octets", format_count(bytes))
}

/// As much of an id as people need.
fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

fn aside(hint: &Option<String>) -> String {
    hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default()
}

/// Names of databases and files may hold anything.
fn shown(name: &str) -> String {
    name.replace('\n', "\\n")
}
