import DeviceModel

extension PCBoard {
  func publishConfiguration() throws(DeviceError) {}
}
