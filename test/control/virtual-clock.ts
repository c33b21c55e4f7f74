/** The simulator's clock, except that a turn of the event loop takes no time: these tests count milliseconds
 *  exactly. */
import { systemClock } from '../../src/base/clock.js';
import { VirtualClock as SimulatorClock } from '../../src/sim/virtual-clock.js';

export class VirtualClock extends SimulatorClock {
  override yield(): Promise<void> {
    return systemClock.yield();
  }
}
