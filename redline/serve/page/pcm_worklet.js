// The microphone's samples -> signed 16-bit PCM, a tenth of a second at a time.

class PcmProcessor extends AudioWorkletProcessor {
  constructor() {
    super();
    this.samples = new Int16Array(Math.round(sampleRate / 10));
    this.filled = 0;
    this.peak = 0;
    this.isOver = false;
    this.port.onmessage = () => {
      this.isOver = true;
      this.send(); // what is left
      this.port.postMessage({ isLast: true });
    };
  }

  process([channels]) {
    if (this.isOver) return false;
    const count = channels[0]?.length ?? 0;
    for (let at = 0; at < count; at++) {
      let sample = 0;
      for (const channel of channels) sample += channel[at];
      sample = Math.max(-1, Math.min(1, sample / channels.length));
      this.peak = Math.max(this.peak, Math.abs(sample));
      this.samples[this.filled++] = Math.round(sample * 32767);
      if (this.filled === this.samples.length) this.send();
    }
    return true;
  }

  send() {
    const pcm = this.samples.slice(0, this.filled).buffer;
    this.port.postMessage({ pcm, peak: this.peak }, [pcm]);
    this.filled = this.peak = 0;
  }
}

registerProcessor("pcm", PcmProcessor);
