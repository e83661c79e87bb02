use super::*;

/// A device that counts what is asked of it.
#[derive(Debug, Default)]
struct Probe {
    activations: Arc<AtomicU32>,
    resets: Arc<AtomicU32>,
}

impl Device for Probe {
    fn device_type(&self) -> u32 {
        4
    }
    fn name(&self) -> &'static str {
        "probe"
    }
    fn features(&self) -> u64 {
        EVENT_IDX
    }
    fn queue_sizes(&self) -> &[u16] {
        &[256]
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(offset as u8);
    }
    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError> {
        assert_eq!(activation.queues.len(), 1);
        self.activations.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    fn reset(&mut self) {
        self.resets.fetch_add(1, Ordering::SeqCst);
    }
    fn pause(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
    fn resume(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
    fn save(&self) -> Result<serde_json::Value, DeviceError> {
        Ok(serde_json::Value::Null)
    }
    fn restore(&mut self, _: &serde_json::Value) -> Result<(), DeviceError> {
        Ok(())
    }
}

struct Bench {
    transport: Transport,
    activations: Arc<AtomicU32>,
    resets: Arc<AtomicU32>,
}

impl Bench {
    fn new() -> Bench {
        let probe = Probe::default();
        let (activations, resets) = (probe.activations.clone(), probe.resets.clone());
        let mem = crate::memory::map(crate::memory::MIN_MEMORY).unwrap();
        Bench {
            transport: Transport::new(Box::new(probe), mem, Line::none()).unwrap(),
            activations,
            resets,
        }
    }

    fn write(&mut self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    fn read(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.transport.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// The driver's part up to DRIVER_OK.
    fn drive(&mut self, used_ring: u32) {
        self.write(0x070, 0);
        self.write(0x070, 1);
        self.write(0x070, 3);
        self.write(0x024, 1);
        self.write(0x020, 1);
        self.write(0x070, 11);
        self.write(0x030, 0);
        self.write(0x038, 128);
        self.write(0x080, 0x10_0000);
        self.write(0x090, 0x10_1000);
        self.write(0x0a0, used_ring);
        self.write(0x044, 1);
        self.write(0x070, 15);
    }
}

#[test]
fn a_driver_that_does_as_the_standard_says_gets_its_device() {
    let mut bench = Bench::new();
    assert_eq!(bench.read(0), MAGIC);
    assert_eq!(bench.read(4), 2);
    assert_eq!(bench.read(8), 4);
    assert_eq!(bench.read(0x34), 256);
    bench.drive(0x10_2000);
    assert_eq!(bench.read(0x070), 15);
    assert_eq!(bench.activations.load(Ordering::SeqCst), 1);
    bench.write(0x070, 0);
    assert_eq!(bench.resets.load(Ordering::SeqCst), 1);
    assert_eq!(bench.read(0x044), 0);
    bench.drive(0x10_2000);
    assert_eq!(bench.activations.load(Ordering::SeqCst), 2);
}

#[test]
fn a_queue_outside_of_memory_needs_a_reset() {
    let mut bench = Bench::new();
    bench.drive(0xf000_0000);
    assert_eq!(bench.read(0x070) & status::NEEDS_RESET, status::NEEDS_RESET);
    assert_eq!(bench.read(0x060), 2);
    assert_eq!(bench.activations.load(Ordering::SeqCst), 0);
}

#[test]
fn features_that_were_not_offered_are_not_ok() {
    let mut bench = Bench::new();
    bench.write(0x070, 1);
    bench.write(0x070, 3);
    bench.write(0x020, 1);
    bench.write(0x070, 11);
    assert_eq!(bench.read(0x070), 3);
}

#[test]
fn steps_out_of_order_are_ignored() {
    let mut bench = Bench::new();
    bench.write(0x070, 4);
    assert_eq!(bench.read(0x070), 0);
    bench.write(0x030, 77);
    bench.write(0x044, 1);
    assert_eq!(bench.read(0x044), 0);
    assert_eq!(bench.read(0x034), 0);
    bench.write(0x050, 77);
    bench.transport.write(0x070, &[1]);
    assert_eq!(bench.read(0x070), 0);
}

#[test]
fn a_saved_transport_goes_on_where_it_was() {
    let mut bench = Bench::new();
    bench.drive(0x10_2000);
    let state = bench.transport.save().unwrap();
    let json = serde_json::to_string(&state).unwrap();
    let state: TransportState = serde_json::from_str(&json).unwrap();
    let mut other = Bench::new();
    other.transport.restore(&state).unwrap();
    assert_eq!(other.read(0x070), 15);
    assert_eq!(other.activations.load(Ordering::SeqCst), 1);
    let queue = lock(&other.transport.slots[0].queue);
    assert_eq!(queue.size(), 128);
    assert_eq!(queue.used_ring(), 0x10_2000);
}

#[test]
fn a_saved_state_that_does_not_fit_is_refused() {
    let mut bench = Bench::new();
    bench.drive(0x10_2000);
    let good = bench.transport.save().unwrap();
    let mut other_kind = good.clone();
    other_kind.kind = 1;
    let mut other_queues = good.clone();
    other_queues.queues.clear();
    let mut outside = good.clone();
    outside.queues[0].used_ring = 1 << 40;
    let mut features = good;
    features.driver_features = u64::MAX;
    for state in [other_kind, other_queues, outside, features] {
        assert!(Bench::new().transport.restore(&state).is_err());
    }
}
