package org.palmtop.core.media;

import org.palmtop.core.bundle.ProcessorSpec;

/**
 * Kaldi-style log-mel features, with the arithmetic of {@code processor/audio.py}: single precision where numpy has it
 * there, double in the transform; only the order of the mel sums differs.
 */
public final class LogMel {
    static final int BLOCK_FRAMES = 256;
    private static final float FULL_SCALE = 32768f;

    private final ProcessorSpec.Audio spec;
    private final double[] window;
    private final RealTransform transform;
    private final float[][] filters;
    private final int[] filterStarts;

    public LogMel(ProcessorSpec.Audio spec) {
        this.spec = spec;
        transform = new RealTransform(spec.nFft);
        window = new double[spec.winLength];
        for (int i = 0; i < window.length; i++) {
            int place = 1 - spec.winLength + 2 * i;
            window[i] = spec.winLength == 1 ? 1.0 : 0.54 + 0.46 * Math.cos(Math.PI * place / (spec.winLength - 1));
        }
        filters = new float[spec.nMels][];
        filterStarts = new int[spec.nMels];
        makeFilters();
    }

    /** Features of {@code count} frames; the first begins at {@code samples[0]}. They are put at {@code into[at..]}. */
    void frames(float[] samples, int count, float[] into, int at) {
        double[] frame = new double[spec.nFft];
        float[] power = new float[spec.nFft / 2 + 1];
        float preemphasis = (float) spec.preemphasis;
        for (int number = 0; number < count; number++) {
            int start = number * spec.hopLength;
            for (int i = 0; i < spec.winLength; i++) {
                // A frame's first sample has no predecessor: it is its own, as in kaldi.
                float previous = samples[start + Math.max(i - 1, 0)];
                float sharp = (samples[start + i] - preemphasis * previous) * FULL_SCALE;
                frame[i] = window[i] * sharp;
            }
            java.util.Arrays.fill(frame, spec.winLength, spec.nFft, 0);
            transform.power(frame, power);
            for (int mel = 0; mel < spec.nMels; mel++) {
                double sum = 0;
                for (int i = 0; i < filters[mel].length; i++) {
                    sum += (double) power[filterStarts[mel] + i] * filters[mel][i];
                }
                into[at++] = (float) Math.log(Math.max((float) sum, 1f));
            }
        }
    }

    private void makeFilters() {
        double low = mel(spec.melMinHz);
        double step = (mel(spec.melMaxHz) - low) / (spec.nMels + 1);
        int bins = spec.nFft / 2 + 1;
        for (int number = 0; number < spec.nMels; number++) {
            double left = low + number * step;
            double middle = low + (number + 1) * step;
            double right = number + 2 == spec.nMels + 1 ? mel(spec.melMaxHz) : low + (number + 2) * step;
            float[] weights = new float[bins];
            int first = bins;
            int last = 0;
            for (int bin = 0; bin < bins; bin++) {
                double place = mel(bin * ((double) spec.rateHz / spec.nFft));
                double rising = (place - left) / (middle - left);
                double falling = (right - place) / (right - middle);
                weights[bin] = (float) Math.max(0, Math.min(rising, falling));
                if (weights[bin] > 0) {
                    first = Math.min(first, bin);
                    last = bin + 1;
                }
            }
            filterStarts[number] = first;
            filters[number] = first < last ? java.util.Arrays.copyOfRange(weights, first, last) : new float[0];
        }
    }

    private static double mel(double frequencyHz) {
        return 1127 * Math.log1p(frequencyHz / 700);
    }
}
