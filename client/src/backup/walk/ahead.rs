//! The names of a directory that the walk is in: looked at, and its subdirectories listed, before their turn, by other threads if there
//! are any. What they have not taken up when its turn comes is done by the walk itself.

use super::listing::{Entrance, Listing, Look, Rules};
use crate::backup::given::Branch;
use crate::backup::names::{Kind, NameList};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

/// So many names are looked at together, and so many times as many ahead of their turn. In tests they are few, so that small trees meet
/// all bounds.
const LOOKS: usize = if cfg!(test) { 4 } else { 256 };
const LOOKS_AHEAD: usize = if cfg!(test) { 2 } else { 4 };
/// So many directories of one, and of all on the way together, are listed ahead of their turn.
const LISTINGS_AHEAD: usize = if cfg!(test) { 2 } else { 8 };
const LISTINGS_AHEAD_ALL: usize = if cfg!(test) { 5 } else { 64 };

/// What another thread is to do; it waits for nobody while doing it.
pub type Task<'a> = Box<dyn FnOnce() + Send + 'a>;

/// By which rules, and who does it.
pub struct Ahead<'a> {
    pub rules: Arc<Rules<'a>>,
    pub tasks: Option<Sender<Task<'a>>>,
    /// Directories that were asked for, and their turn has not come.
    coming: usize,
}

/// The directory that names are in.
#[derive(Clone, Copy)]
pub struct Here<'h, 'a> {
    pub directory: &'h Arc<OwnedFd>,
    /// Absolute.
    pub path: &'h [u8],
    pub device: u64,
    pub branch: Option<&'a Branch>,
}

/// Names in order, and what is known of those that come next.
#[derive(Default)]
pub struct Names<'a> {
    list: Arc<NameList>,
    /// How many had their turn.
    passed: usize,
    /// Of the names from the present one on.
    looks: VecDeque<Look>,
    /// Of those that follow, in as many parts as were asked for.
    looks_ahead: VecDeque<Asked<'a, VecDeque<Look>>>,
    /// The first name that nobody was asked to look at.
    unseen: usize,
    /// Directories that nobody was asked to list, and those that somebody was.
    unlisted: VecDeque<usize>,
    listings: VecDeque<(usize, Asked<'a, io::Result<Listing>>)>,
}

impl<'a> Ahead<'a> {
    pub fn new(rules: Rules<'a>) -> Ahead<'a> {
        Ahead { rules: Arc::new(rules), tasks: None, coming: 0 }
    }

    /// `None` if nobody has time for it.
    fn ask<T: Send + 'a>(&self, work: impl FnOnce(&Rules<'a>) -> T + Send + 'a) -> Option<Asked<'a, T>> {
        let tasks = self.tasks.as_ref()?;
        let (answer, outcome) = bounded(1);
        let rules = Arc::clone(&self.rules);
        let work: Work<'a, T> = Arc::new(Mutex::new(Some(Box::new(move || work(&rules)))));
        let asked = Asked { work: Arc::clone(&work), outcome };
        let task = move || {
            if let Some(work) = take(&work) {
                // The walk may have gone on without it.
                let _ = answer.send(work());
            }
        };
        tasks.try_send(Box::new(task)).ok()?;
        Some(asked)
    }
}

/// What somebody was asked for, and who comes first takes up.
struct Asked<'a, T> {
    work: Work<'a, T>,
    outcome: Receiver<T>,
}

type Work<'a, T> = Arc<Mutex<Option<Box<dyn FnOnce() -> T + Send + 'a>>>>;

fn take<'a, T>(work: &Work<'a, T>) -> Option<Box<dyn FnOnce() -> T + Send + 'a>> {
    work.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl<T> Asked<'_, T> {
    /// Does it, unless another thread did or is about to.
    fn get(self) -> Option<T> {
        match take(&self.work) {
            Some(work) => Some(work()),
            None => self.outcome.recv().ok(),
        }
    }
}

impl<'a> Names<'a> {
    /// What was listed, and what was seen of the first of it.
    pub fn new(list: NameList, looks: VecDeque<Look>) -> Names<'a> {
        let mut names = Names { list: Arc::new(list), unseen: looks.len(), ..Names::default() };
        names.take_looks(looks, 0);
        names
    }

    /// The next name; its turn has come.
    pub fn next(&mut self) -> Option<(&[u8], Kind)> {
        let name = self.list.get(self.passed)?;
        self.passed += 1;
        Some(name)
    }

    /// Leaves out the rest.
    pub fn end(&mut self) {
        self.passed = self.list.len();
    }

    /// What the present name is. It asks ahead for what comes after. In one directory every name is looked at, or none.
    pub fn look(&mut self, here: Here<'_, 'a>, ahead: &mut Ahead<'a>) -> Option<Look> {
        if self.looks.is_empty() {
            let present = self.passed.checked_sub(1)?;
            let asked = self.looks_ahead.pop_front().and_then(|looks| looks.get());
            let looks = asked.unwrap_or_else(|| {
                self.unseen = self.unseen.max(present + LOOKS);
                let which = present..present + LOOKS;
                ahead.rules.look(here.directory.as_fd(), (here.path, here.branch), &self.list, which)
            });
            self.take_looks(looks, present);
        }
        self.ask_for_looks(here, ahead);
        self.ask_for_listings(here, ahead);
        self.looks.pop_front()
    }

    /// The directory of the present name.
    pub fn listing(&mut self, directory: &OwnedFd, device: u64, ahead: &mut Ahead<'a>) -> io::Result<Listing> {
        let listing = self.asked_listing(ahead).and_then(|listing| listing.get());
        listing.unwrap_or_else(|| {
            let present = self.passed.checked_sub(1).and_then(|present| self.list.get(present));
            let name = present.map_or(&[][..], |(name, _)| name);
            ahead.rules.list(directory.as_fd(), name, Entrance::listed(device))
        })
    }

    /// The walk leaves the directory.
    pub fn forget(&self, ahead: &mut Ahead<'a>) {
        ahead.coming -= self.listings.len();
    }

    /// What was asked for the present name. What was asked for names before it, which were entered in another way, is forgotten.
    fn asked_listing(&mut self, ahead: &mut Ahead<'a>) -> Option<Asked<'a, io::Result<Listing>>> {
        while let Some((at, _)) = self.listings.front()
            && at < &self.passed
        {
            let (at, listing) = self.listings.pop_front()?;
            ahead.coming -= 1;
            if at + 1 == self.passed {
                return Some(listing);
            }
        }
        None
    }

    /// Looks at names from `first` on.
    fn take_looks(&mut self, looks: VecDeque<Look>, first: usize) {
        let directories = looks.iter().enumerate().filter(|(_, look)| matches!(look, Look::Directory));
        self.unlisted.extend(directories.map(|(at, _)| first + at));
        self.looks = looks;
    }

    fn ask_for_looks(&mut self, here: Here<'_, 'a>, ahead: &Ahead<'a>) {
        while self.unseen < self.list.len() && self.looks_ahead.len() < LOOKS_AHEAD {
            let (directory, path, branch) = (Arc::clone(here.directory), here.path.to_vec(), here.branch);
            let (list, which) = (Arc::clone(&self.list), self.unseen..self.unseen + LOOKS);
            let work = move |rules: &Rules<'_>| rules.look(directory.as_fd(), (&path, branch), &list, which);
            let Some(looks) = ahead.ask(work) else { return };
            self.looks_ahead.push_back(looks);
            self.unseen += LOOKS;
        }
    }

    fn ask_for_listings(&mut self, here: Here<'_, 'a>, ahead: &mut Ahead<'a>) {
        while self.listings.len() < LISTINGS_AHEAD && ahead.coming < LISTINGS_AHEAD_ALL {
            let Some(at) = self.unlisted.front().copied() else { return };
            // What has its turn now is done at once.
            if at >= self.passed {
                let Some((name, _)) = self.list.get(at) else { return };
                let (parent, name, device) = (Arc::clone(here.directory), name.to_vec(), here.device);
                let path = [here.path, b"/", &name].concat();
                let work = move |rules: &Rules<'_>| {
                    let mut listing = rules.list(parent.as_fd(), &name, Entrance::listed(device))?;
                    if listing.whole {
                        listing.looks = rules.look(listing.directory.as_fd(), (&path, None), &listing.names, 0..LOOKS);
                    }
                    Ok(listing)
                };
                let Some(listing) = ahead.ask(work) else { return };
                self.listings.push_back((at, listing));
                ahead.coming += 1;
            }
            self.unlisted.pop_front();
        }
    }
}
