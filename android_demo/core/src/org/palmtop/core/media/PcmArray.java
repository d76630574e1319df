package org.palmtop.core.media;

/** Mono samples in memory: 16-bit as a phone's microphone gives them, or floats of -1..1. */
public final class PcmArray implements PcmSource {
    private final int rateHz;
    private final short[] shorts;
    private final float[] floats;
    private final int count;

    /** The first {@code count} of 16-bit samples. */
    public PcmArray(short[] samples, int count, int rateHz) {
        this.shorts = samples;
        this.floats = null;
        this.count = count;
        this.rateHz = rateHz;
    }

    public PcmArray(float[] samples, int rateHz) {
        this.shorts = null;
        this.floats = samples;
        this.count = samples.length;
        this.rateHz = rateHz;
    }

    @Override
    public int rateHz() {
        return rateHz;
    }

    @Override
    public long length() {
        return count;
    }

    @Override
    public void read(long start, float[] into, int number) {
        if (floats != null) {
            System.arraycopy(floats, (int) start, into, 0, number);
            return;
        }
        for (int i = 0; i < number; i++) {
            into[i] = shorts[(int) start + i] / 32768f;
        }
    }
}
