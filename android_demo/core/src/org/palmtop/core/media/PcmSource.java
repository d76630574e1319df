package org.palmtop.core.media;

/** Mono samples that can be read from any place, so that a long recording need not lie in memory. */
public interface PcmSource {
    int rateHz();

    /** Samples in all. */
    long length();

    /** Fill {@code into[0..count)} with samples from {@code start}, -1..1; start and end lie inside the sound. */
    void read(long start, float[] into, int count);
}
