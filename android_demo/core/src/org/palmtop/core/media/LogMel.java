package org.palmtop.core.media;

import org.palmtop.core.bundle.ProcessorSpec;

/**
 * Kaldi-style log-mel features, with the arithmetic of {@code processor/sounds/log_mel.py}: single precision where numpy has it
 * there, double in the transform; only the order of the mel sums differs. Sounds below the model's rate are framed at
 * half of it, and everything above its Nyquist frequency is zero.
 */
public final class LogMel {
    static final int BLOCK_FRAMES = 256;
    private static final float FULL_SCALE = 32768f;

    /** Rate in Hz of the samples for {@code frames}. */
    public final int rateHz;

    final int winLength;
    final int hopLength;

    private final ProcessorSpec.Audio spec;
    private final int nFft;
    private final int bins;
    private final double[] window;
    private final RealTransform transform;
    private final float[][] filters;
    private final int[] filterStarts;

    public LogMel(ProcessorSpec.Audio spec, int sourceRateHz) {
        this.spec = spec;
        boolean canHalve = spec.rateHz % 2 == 0 && spec.nFft % 4 == 0 && spec.winLength % 2 == 0
                && spec.hopLength % 2 == 0;
        int divisor = sourceRateHz < spec.rateHz && canHalve ? 2 : 1;
        rateHz = spec.rateHz / divisor;
        winLength = spec.winLength / divisor;
        hopLength = spec.hopLength / divisor;
        nFft = spec.nFft / divisor;
        bins = divisor == 2 ? nFft / 2 : nFft / 2 + 1;
        transform = new RealTransform(nFft);
        window = new double[winLength];
        for (int i = 0; i < window.length; i++) {
            int place = 1 - winLength + 2 * i;
            window[i] = winLength == 1 ? 1.0 : 0.54 + 0.46 * Math.cos(Math.PI * place / (winLength - 1));
        }
        filters = new float[spec.nMels][];
        filterStarts = new int[spec.nMels];
        makeFilters();
    }

    /** Features of {@code count} frames; the first begins at {@code samples[0]}. They are put at {@code into[at..]}. */
    void frames(float[] samples, int count, float[] into, int at) {
        double[] frame = new double[nFft];
        float[] power = new float[nFft / 2 + 1];
        float preemphasis = (float) spec.preemphasis;
        for (int number = 0; number < count; number++) {
            int start = number * hopLength;
            for (int i = 0; i < winLength; i++) {
                // A frame's first sample has no predecessor: it is its own, as in kaldi.
                float previous = samples[start + Math.max(i - 1, 0)];
                float sharp = (samples[start + i] - preemphasis * previous) * FULL_SCALE;
                frame[i] = window[i] * sharp;
            }
            java.util.Arrays.fill(frame, winLength, nFft, 0);
            transform.power(frame, power);
            for (int mel = 0; mel < spec.nMels; mel++) {
                double sum = 0;
                int width = Math.min(filters[mel].length, bins - filterStarts[mel]);
                for (int i = 0; i < width; i++) {
                    sum += (double) power[filterStarts[mel] + i] * filters[mel][i];
                }
                into[at++] = (float) Math.log(Math.max((float) sum, 1f));
            }
        }
    }

    private void makeFilters() {
        double low = mel(spec.melMinHz);
        double step = (mel(spec.melMaxHz) - low) / (spec.nMels + 1);
        int bins = spec.nFft / 2 + 1; // of the model's own rate
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
