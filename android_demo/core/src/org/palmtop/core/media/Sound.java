package org.palmtop.core.media;

import java.io.Closeable;
import java.io.IOException;
import org.palmtop.core.DecimalText;
import org.palmtop.core.PalmtopException;
import org.palmtop.core.bundle.ProcessorSpec;

/** A recording as the encoder will see it: checked, at the model's rate, as log-mel frames of any part of it. */
public final class Sound implements Closeable {
    private static final double MIN_SOUND_S = 0.02;
    private static final long MAX_SAMPLES = 1L << 27;
    private static final int MIN_RATE_HZ = 1_000;
    private static final int MAX_RATE_HZ = 768_000;

    private final PcmSource source;
    private final PcmSource samples;
    private final ProcessorSpec.Audio spec;
    private final String name;
    private final LogMel logMel;

    public Sound(PcmSource source, ProcessorSpec.Audio spec, String name) {
        this.source = source;
        this.spec = spec;
        this.name = name;
        check();
        logMel = new LogMel(spec, source.rateHz());
        samples = Resampler.to(logMel.rateHz, source);
        if (samples.length() < logMel.winLength) {
            throw PalmtopException.input("the sound has " + samples.length()
                    + " samples, expected at least one frame of " + logMel.winLength);
        }
    }

    /** Mel frames of the whole sound. */
    public int frames() {
        return (int) ((samples.length() - logMel.winLength) / logMel.hopLength + 1);
    }

    /** Feature rows, and so ids in the prompt. */
    public int rows() {
        return ceil(ceil(frames(), spec.compressionRate), spec.downsampleRate);
    }

    /** Frames {@code first..last}: [last - first, mels]. */
    public float[] logMel(int first, int last) {
        float[] result = new float[(last - first) * spec.nMels];
        float[] block = new float[LogMel.BLOCK_FRAMES * logMel.hopLength + logMel.winLength];
        for (int at = first; at < last; at += LogMel.BLOCK_FRAMES) {
            int count = Math.min(LogMel.BLOCK_FRAMES, last - at);
            int needed = (count - 1) * logMel.hopLength + logMel.winLength;
            long start = (long) at * logMel.hopLength;
            samples.read(start, block, needed);
            for (int i = 0; i < needed; i++) {
                if (Float.isNaN(block[i]) || Float.isInfinite(block[i])) {
                    throw PalmtopException.input(name + ": sample " + (start + i) + " ("
                            + DecimalText.fixed((double) (start + i) / logMel.rateHz, 3)
                            + " s) is NaN or infinite, expected finite samples");
                }
            }
            logMel.frames(block, count, result, (at - first) * spec.nMels);
        }
        return result;
    }

    private void check() {
        int rate = source.rateHz();
        long length = source.length();
        if (rate < MIN_RATE_HZ || rate > MAX_RATE_HZ) {
            throw PalmtopException.input(name + ": the rate is " + rate + " Hz, expected " + MIN_RATE_HZ + " to "
                    + MAX_RATE_HZ + " Hz");
        }
        if (Math.max(length, length * spec.rateHz / rate) > MAX_SAMPLES) {
            throw PalmtopException.input(name + ": the sound lasts " + DecimalText.fixed((double) length / rate, 0)
                    + " s at " + rate + " Hz, expected at most "
                    + DecimalText.fixed((double) MAX_SAMPLES / Math.max(rate, spec.rateHz), 0) + " s");
        }
        if (length < MIN_SOUND_S * rate) {
            throw PalmtopException.input(name + ": the sound lasts " + DecimalText.fixed(1000.0 * length / rate, 1)
                    + " ms, expected at least " + DecimalText.fixed(1000 * MIN_SOUND_S, 0) + " ms");
        }
    }

    private static int ceil(int number, int divisor) {
        return (number + divisor - 1) / divisor;
    }

    @Override
    public void close() {
        if (source instanceof Closeable) {
            try {
                ((Closeable) source).close();
            } catch (IOException error) {
                throw PalmtopException.input(name + ": cannot be closed (" + error.getMessage() + ")");
            }
        }
    }
}
