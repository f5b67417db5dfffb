//! The GPUs of the NVIDIA driver, which is opened at run time.

use cudarc::driver::{result, sys};

/// One GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// The N of `cuda:N`.
    pub ordinal: usize,
    /// "NVIDIA H200".
    pub name: String,
    /// Bytes on the card.
    pub memory: usize,
    /// Compute capability, major and minor.
    pub capability: (i32, i32),
}

/// The state of the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// No driver library on the loader's path.
    Absent,
    /// The library is there and refuses: the code and name of its error.
    Failed(String),
    /// The newest CUDA version the driver serves (12080 is 12.8), and the GPUs.
    Ready {
        /// 1000·major + 10·minor.
        version: i32,
        /// By ordinal.
        gpus: Vec<Gpu>,
    },
}

/// Queries the driver. Never panics, also where there is none.
pub fn probe() -> Driver {
    // SAFETY: looks for a library by name and loads it; no function of it is called.
    if !unsafe { sys::is_culib_present() } {
        return Driver::Absent;
    }
    ask().unwrap_or_else(|e| Driver::Failed(format!("{e:?}")))
}

/// An executable of the kernels for the host, which then stands in for two GPUs. Tests set it.
pub const TWIN: &str = "INCISE_TWIN";

/// `off` gives each array memory of its own, so that a sanitizer sees what runs over its end.
pub const POOL: &str = "INCISE_POOL";

/// `1` compiles kernels from PTX, as future cards will; the driver itself reads it, too.
pub const FORCE_PTX: &str = "CUDA_FORCE_PTX_JIT";

/// The GPUs of a working driver; none otherwise.
pub fn gpus() -> Vec<Gpu> {
    if std::env::var_os(TWIN).is_some() {
        let name = "the host, in place of a GPU".to_owned();
        let gpu =
            |ordinal| Gpu { ordinal, name: name.clone(), memory: 1 << 30, capability: (0, 0) };
        return [0, 1].map(gpu).into();
    }
    match probe() {
        Driver::Ready { gpus, .. } => gpus,
        Driver::Absent | Driver::Failed(_) => Vec::new(),
    }
}

fn ask() -> Result<Driver, result::DriverError> {
    result::init()?;
    let version = version()?;
    let gpus = (0..result::device::get_count()?).map(gpu).collect::<Result<_, _>>()?;
    Ok(Driver::Ready { version, gpus })
}

/// The newest CUDA version that a driver which is there serves.
pub(super) fn version() -> Result<i32, result::DriverError> {
    let mut version = 0;
    // SAFETY: the library is present; `version` outlives the call.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    Ok(version)
}

fn gpu(ordinal: i32) -> Result<Gpu, result::DriverError> {
    use sys::CUdevice_attribute as A;
    let device = result::device::get(ordinal)?;
    let name = result::device::get_name(device)?;
    // SAFETY: `device` came from the driver just now.
    let memory = unsafe { result::device::total_mem(device) }?;
    // SAFETY: as above; both attributes exist since CUDA 5.
    let attribute = |a| unsafe { result::device::get_attribute(device, a) };
    let major = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok(Gpu { ordinal: ordinal as usize, name, memory, capability: (major, minor) })
}
