import { hostname } from "node:os";
import { engine } from "../runtime.js";

/**
 * By device the host it is on, for `hybridMesh`: `hybridMesh(inner, outer, { hosts: await deviceHosts() })`. Every process must
 * ask. As the process_index of jax's devices.
 */
export async function deviceHosts(): Promise<string[]> {
  const { device } = engine();
  const count = device.deviceCount;
  if (device.localDevices.length === count) return new Array<string>(count).fill(hostname());
  const names = await device.exchange(new TextEncoder().encode(hostname()));
  return names.map((bytes) => new TextDecoder().decode(bytes));
}
