//! What a card has proved is kept on disk, under a hash of all that its results depend on: the card
//! itself, its driver, the program and its kernels, and what was proved.
//!
//! Only what held is kept, so a file that is there is an answer, and one that is lost costs the
//! time of another proof. Another card of the same kind, a new driver and a new build prove anew.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::UNIX_EPOCH;

use cudarc::driver::result;

use super::driver::{self, FORCE_PTX, Gpu, TWIN};
use super::image;
use super::kernels::{FILES, HEADERS};

/// The program's version and the commit it is of.
pub const BUILD: &str = concat!(env!("CARGO_PKG_VERSION"), " ", env!("INCISE_COMMIT"));

/// A hash of the sources that launch kernels and ask a card, for a checkout that has changed.
const SOURCES: &str = env!("INCISE_SOURCES");

/// Something that a card has proved, or is to prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// "NVIDIA H200".
    pub device: String,
    /// "570.86.15, CUDA 12.8".
    pub driver: String,
    /// What was proved.
    pub what: String,
    /// Of card, driver, program, kernels and what was proved: under this it is kept.
    pub hash: String,
    /// Whether it was proved just now, so that what rests on it is to be proved now, too.
    pub anew: bool,
}

impl Proof {
    /// What a card is to prove.
    pub fn of(gpu: &Gpu, what: &str) -> Proof {
        let driver = driver_title();
        let mut hash = blake3::Hasher::new();
        let (major, minor) = gpu.capability;
        let capability = format!("{major}.{minor}");
        let forced = std::env::var(FORCE_PTX).unwrap_or_default(); // it runs other machine code
        let program = [BUILD, SOURCES, &KERNELS, &forced];
        for part in [&*identity(gpu), &capability, &driver, what].into_iter().chain(program) {
            hash.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        let hash = hash.finalize().to_hex()[..32].to_owned();
        Proof { device: gpu.name.clone(), driver, what: what.to_owned(), hash, anew: false }
    }

    /// The same card and driver, which has proved this, and is to prove something more.
    pub fn with(&self, what: &str) -> Proof {
        let hash = blake3::hash(format!("{}\n{what}", self.hash).as_bytes());
        let hash = hash.to_hex()[..32].to_owned();
        Proof { what: what.to_owned(), hash, ..self.clone() }
    }

    /// Whether it was proved before.
    pub fn is_kept(&self) -> bool {
        !self.anew
            && fs::read_to_string(self.path()).is_ok_and(|text| text.starts_with(&self.text()))
    }

    /// Keeps that it was proved, and what was measured.
    ///
    /// # Errors
    ///
    /// A sentence, where it cannot be kept and has to be proved at every start.
    pub fn keep(&self, measured: &str) -> Result<(), String> {
        self.write(measured).map_err(|e| {
            let folder = image::cache_folder();
            format!(
                "{}: what {} has proved cannot be kept there ({e}), so it is proved at every \
                 start; name a folder that can be written in INCISE_CACHE",
                folder.display(),
                self.device
            )
        })
    }

    /// Forgets that it was proved: the card gave something wrong since.
    pub fn forget(&self) {
        let _ = fs::remove_file(self.path());
    }

    fn write(&self, measured: &str) -> std::io::Result<()> {
        let path = self.path();
        let dir = path.parent().expect("a file in a folder");
        fs::create_dir_all(dir)?;
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(self.text().as_bytes())?;
        file.write_all(measured.as_bytes())?;
        file.persist(path)?;
        Ok(())
    }

    /// What its file says, for who reads it.
    fn text(&self) -> String {
        let Proof { device, driver, what, hash, .. } = self;
        format!("{device}, driver {driver}, build {BUILD}\n{what}\n{hash}\n")
    }

    fn path(&self) -> PathBuf {
        image::cache_folder().join("proofs").join(&self.hash)
    }

    /// `NVIDIA H200, driver 570.86.15, CUDA 12.8, build 0.1.0 0123456789ab`.
    pub fn title(&self) -> String {
        format!("{}, driver {}, build {BUILD}", self.device, self.driver)
    }
}

/// A hash of the kernels' texts and of what was compiled of them.
static KERNELS: LazyLock<String> = LazyLock::new(|| {
    let mut hash = blake3::Hasher::new();
    HEADERS.iter().for_each(|(name, text)| {
        hash.update(name.as_bytes()).update(text.as_bytes());
    });
    for file in FILES {
        hash.update(file.name.as_bytes()).update(file.text.as_bytes());
        file.images.iter().for_each(|image| {
            hash.update(image.arch.as_bytes()).update(image.bytes);
        });
    }
    hash.finalize().to_hex().to_string()
});

/// Tells a card from others: its serial number, in words; or its name, where the driver does not
/// say. An executable in a card's place is told by its path, its length and when it was written.
fn identity(gpu: &Gpu) -> String {
    if let Some(twin) = std::env::var_os(TWIN) {
        let twin = Path::new(&twin);
        let about = fs::metadata(twin).ok();
        let written = about.as_ref().and_then(|about| about.modified().ok());
        let since = written.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        return format!("{} {:?} {since:?}", twin.display(), about.map(|about| about.len()));
    }
    let uuid = || {
        let device = result::device::get(gpu.ordinal as i32).ok()?;
        result::device::get_uuid(device).ok()
    };
    match uuid() {
        Some(uuid) => uuid.bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        None => gpu.name.clone(),
    }
}

/// The driver's release, where the system says, and the newest CUDA version that it serves.
fn driver_title() -> String {
    if std::env::var_os(TWIN).is_some() {
        return "none".to_owned();
    }
    let cuda = match driver::version() {
        Ok(version) => format!("CUDA {}.{}", version / 1000, version % 1000 / 10),
        Err(e) => format!("{e:?}"),
    };
    let said = fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    let is_release =
        |word: &&str| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit());
    match said.lines().next().unwrap_or_default().split_whitespace().find(is_release) {
        Some(release) => format!("{release}, {cuda}"),
        None => cuda,
    }
}
