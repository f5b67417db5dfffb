//! A disk that fails at its n-th step, or dies there, or loses power there.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use incise::base::Rng;
use incise::store::disk::{Disk, Os};

/// What happens at the n-th step.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// It fails; the next ones work.
    Fail,
    /// It fails, and so does every later one whose number it divides, counted from 1.
    Every,
    /// The disk is full from there on: nothing new is made and no file grows. What is there can be
    /// overwritten and removed.
    Full,
    /// The process is killed: half of a write happens, and nothing after it.
    Kill,
    /// The machine goes off: as `Kill`, and of everything not yet synced a part, which depends on
    /// this seed, is lost.
    PowerCut(u64),
}

pub const FAULTS: [Fault; 10] = [
    Fault::Fail,
    Fault::Every,
    Fault::Full,
    Fault::Kill,
    Fault::PowerCut(0), // loses everything that was not synced
    Fault::PowerCut(1),
    Fault::PowerCut(2),
    Fault::PowerCut(3),
    Fault::PowerCut(4),
    Fault::PowerCut(5),
];

pub struct Faulty {
    at: usize,
    fault: Fault,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    steps: usize,
    dead: bool,
    unsynced: Vec<Unsynced>,
}

/// What a power cut may take back.
enum Unsynced {
    Write { file: File, at: u64, old: Vec<u8> }, // the file, whatever its name is by then
    Made(PathBuf),
    Renamed { from: PathBuf, to: PathBuf, replaced: Option<Vec<u8>> },
    Removed { path: PathBuf, content: Vec<u8> },
}

impl Faulty {
    pub fn new(at: usize, fault: Fault) -> Faulty {
        Faulty { at, fault, state: Mutex::default() }
    }

    /// A disk that only counts its steps.
    pub fn sound() -> Faulty {
        Faulty::new(usize::MAX, Fault::Kill)
    }

    /// Whether the n-th step came.
    pub fn hit(&self) -> bool {
        self.state.lock().unwrap().steps > self.at
    }

    /// Counts a step that needs new room or not; where it fails, `part` of it happens if the
    /// process dies there.
    fn step(&self, grows: bool, part: impl FnOnce()) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        let this = state.steps;
        state.steps += 1;
        if state.dead {
            return Err(io::Error::other("dead"));
        }
        let fails = match self.fault {
            Fault::Every => (this + 1).is_multiple_of(self.at + 1),
            Fault::Full if this >= self.at && grows => {
                return Err(io::ErrorKind::StorageFull.into());
            }
            Fault::Full => false,
            _ => this == self.at,
        };
        if !fails {
            return Ok(());
        }
        let died = matches!(self.fault, Fault::Kill | Fault::PowerCut(_));
        state.dead = died;
        drop(state);
        if died {
            part();
        }
        Err(io::Error::other("injected"))
    }

    fn pending(&self, change: Unsynced) {
        self.state.lock().unwrap().unsynced.push(change);
    }

    /// Does what is left to do at the fault: a power cut takes back what was not synced.
    pub fn aftermath(&self) {
        let Fault::PowerCut(seed) = self.fault else { return };
        let mut rng = Rng::new(seed, "power cut");
        for change in self.state.lock().unwrap().unsynced.drain(..).rev() {
            if seed == 0 || rng.uniform() < 0.5 {
                change.take_back();
            }
        }
    }

    fn write_part(&self, path: &Path, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        let end = file.metadata()?.len().min(at + bytes.len() as u64);
        let mut old = vec![0; bytes.len()];
        let there = end.saturating_sub(at) as usize;
        file.read_exact_at(&mut old[..there], at)?;
        self.pending(Unsynced::Write { file: file.try_clone()?, at, old });
        Os.write(path, file, bytes, at)
    }
}

impl Unsynced {
    /// Names that are gone by now need no taking back.
    fn take_back(self) {
        match self {
            Unsynced::Write { file, at, old } => file.write_all_at(&old, at).unwrap(),
            Unsynced::Made(path) => {
                let _ = fs::remove_file(&path);
                let _ = fs::remove_dir(&path);
            }
            Unsynced::Renamed { from, to, replaced } => {
                let _ = fs::rename(&to, from);
                if let Some(content) = replaced {
                    fs::write(to, content).unwrap();
                }
            }
            Unsynced::Removed { path, content } => fs::write(path, content).unwrap(),
        }
    }
}

impl Disk for Faulty {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.step(true, || ())?;
        Os.create_dir(path)?;
        self.pending(Unsynced::Made(path.to_path_buf()));
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        self.step(true, || ())?;
        let file = Os.create(path)?;
        self.pending(Unsynced::Made(path.to_path_buf()));
        Ok(file)
    }

    fn write(&self, path: &Path, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        let half = &bytes[..bytes.len() / 2];
        let grows = at + bytes.len() as u64 > file.metadata()?.len();
        self.step(grows, || self.write_part(path, file, half, at).unwrap())?;
        self.write_part(path, file, bytes, at)
    }

    fn sync(&self, _: &Path, file: &File) -> io::Result<()> {
        self.step(false, || ())?;
        let inode = file.metadata()?.ino();
        self.state.lock().unwrap().unsynced.retain(|u| match u {
            Unsynced::Write { file, .. } => file.metadata().unwrap().ino() != inode,
            _ => true,
        });
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.step(false, || ())?;
        let inside = |path: &Path| path.parent() == Some(dir);
        self.state.lock().unwrap().unsynced.retain(|u| match u {
            Unsynced::Write { .. } => true,
            Unsynced::Made(path) | Unsynced::Removed { path, .. } => !inside(path),
            Unsynced::Renamed { to, .. } => !inside(to),
        });
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(false, || ())?;
        let replaced = fs::read(to).ok();
        Os.rename(from, to)?;
        let (from, to) = (from.to_path_buf(), to.to_path_buf());
        self.pending(Unsynced::Renamed { from, to, replaced });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step(false, || ())?;
        let content = fs::read(path)?;
        Os.remove(path)?;
        self.pending(Unsynced::Removed { path: path.to_path_buf(), content });
        Ok(())
    }
}
