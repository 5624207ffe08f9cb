//! The response while the application's code runs: where `start_response` and `write()` find it, and the watch.
//! Must not know: the loop; which language the application is written in.
//! Invariant: one owner at a time; the lock is held for moments only, never while the application or the peer is waited for.

use std::sync::Arc;

use crate::http1::ResponseHead;
use crate::io::Socket;
use crate::reply::Reply;
use crate::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use crate::watch::Held;

/// For what the application's code runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppCall {
    /// The call of the application: a new response.
    Call,
    /// One more block of the response.
    Next,
    /// The end of the response: nothing can be added to it any more.
    Close,
}

/// Why a head was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// There is one already, and no error to take its place.
    Twice,
    /// It has been sent, or the response is over.
    TooLate,
}

/// A place for one response.
pub struct ReplySlot<S: Socket, B> {
    place: Mutex<Place<S, B>>,
    /// Signalled when a borrowed reply comes back.
    returned: Condvar,
}

struct Place<S: Socket, B> {
    reply: Option<Reply<S, B>>,
    call: AppCall,
    /// A head has been given, be it in vain.
    called: bool,
    /// Whether a thread waits for the reply.
    awaited: bool,
    /// The reply had to end while it was borrowed (its time was up, or the process ends): it is cut when it comes back.
    is_cut: bool,
}

impl<S: Socket, B> Default for ReplySlot<S, B> {
    fn default() -> Self {
        let place = Place { reply: None, call: AppCall::Close, called: false, awaited: false, is_cut: false };
        ReplySlot { place: Mutex::new(place), returned: Condvar::new() }
    }
}

impl<S: Socket, B: AsRef<[u8]> + Send + Sync + 'static> ReplySlot<S, B> {
    fn lock(&self) -> MutexGuard<'_, Place<S, B>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts `reply` here for as long as the application's code runs. What waits to be sent is left to the watch.
    pub fn lend(self: &Arc<Self>, mut reply: Reply<S, B>, call: AppCall) {
        let held = reply.holds().then(|| (reply.outgoing.watch.clone(), reply.outgoing.slot.clone()));
        if reply.ends_with_connection() {
            reply.outgoing.watch.note_unfinished(&reply.outgoing.slot, self.clone());
        }
        let mut place = self.lock();
        if call == AppCall::Call {
            (place.called, place.is_cut) = (false, false);
        }
        if place.is_cut && !reply.is_broken() {
            reply.time_out();
        }
        place.call = call;
        place.reply = Some(reply);
        drop(place);
        if let Some((watch, slot)) = held {
            watch.hold(&slot, self.clone());
        }
    }

    /// Takes the reply back; `None` where another thread of the application has borrowed it: see [`ReplySlot::wait`].
    pub fn take_back(&self) -> Option<Reply<S, B>> {
        self.lock().reply.take()
    }

    /// Takes the reply back when the one who has borrowed it returns it.
    pub fn wait(&self) -> Reply<S, B> {
        let mut place = self.lock();
        loop {
            if let Some(reply) = place.reply.take() {
                place.awaited = false;
                return reply;
            }
            place.awaited = true;
            place = self.returned.wait(place).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes the reply to `write()` by it; `None` where there is none, or no more to be added.
    pub fn borrow(&self) -> Option<Reply<S, B>> {
        let mut place = self.lock();
        if place.call == AppCall::Close { None } else { place.reply.take() }
    }

    /// Gives a borrowed reply back.
    pub fn give_back(&self, mut reply: Reply<S, B>) {
        let mut place = self.lock();
        if place.is_cut {
            reply.time_out();
        }
        place.reply = Some(reply);
        // A Condvar's notify is a system call even where nobody waits.
        if place.awaited {
            self.returned.notify_one();
        }
    }

    /// Sets the head of the response to `head`, and leaves another in its place. `instead`: of one given before.
    ///
    /// # Errors
    /// [`NotTaken`], with `head` untouched.
    pub fn set_head(&self, head: &mut ResponseHead, instead: bool) -> Result<(), NotTaken> {
        let mut place = self.lock();
        let called = std::mem::replace(&mut place.called, true);
        match &mut place.reply {
            _ if called && !instead => Err(NotTaken::Twice),
            Some(reply) if !reply.is_started() => {
                std::mem::swap(&mut reply.outgoing.head, head);
                Ok(())
            }
            _ if instead => Err(NotTaken::TooLate),
            _ => Ok(()),
        }
    }

    /// Notes a head that was none; whether another had been given before.
    pub fn note_bad_head(&self) -> bool {
        std::mem::replace(&mut self.lock().called, true)
    }

    /// The time is up: the peer is told (503), or its response cut, while the application goes on for nobody.
    pub fn time_out(&self) {
        let mut place = self.lock();
        match &mut place.reply {
            Some(reply) => reply.time_out(),
            None => place.is_cut = true,
        }
    }

    /// Whether the reply had to end while it was borrowed.
    pub fn is_cut(&self) -> bool {
        self.lock().is_cut
    }

    /// Whether a head can still take the place of another.
    pub fn is_open(&self) -> bool {
        self.lock().reply.as_ref().is_some_and(|reply| !reply.is_started())
    }
}

impl<S: Socket, B: AsRef<[u8]> + Send + Sync + 'static> Held for ReplySlot<S, B> {
    fn send_held(&self) -> bool {
        self.lock().reply.as_mut().is_none_or(Reply::send_held)
    }

    fn cut(&self) -> bool {
        let mut place = self.lock();
        let Some(reply) = &mut place.reply else {
            place.is_cut = true;
            return false;
        };
        if reply.ends_with_connection() {
            reply.cut();
        }
        true
    }
}
