package org.palmtop.core.media;

/**
 * A sound at another rate: a windowed sinc, as librosa's soxr_hq in passband (0.91 of the lower Nyquist frequency) and
 * rejection (120 dB). Every output is computed from the inputs around it, so any place can be read.
 */
public final class Resampler implements PcmSource {
    private static final int CROSSINGS = 90;
    private static final int STEPS = 2048;
    private static final double KAISER_BETA = 12.3;
    private static final double CUTOFF = 0.957;
    private static final double[] KERNEL = kernel();

    private final PcmSource source;
    private final int rateHz;
    private final double scale;
    private final double reach;
    private float[] window = new float[0];

    public Resampler(PcmSource source, int rateHz) {
        this.source = source;
        this.rateHz = rateHz;
        this.scale = CUTOFF * Math.min(1.0, (double) rateHz / source.rateHz());
        this.reach = CROSSINGS / scale;
    }

    /** The sound itself when it has that rate already. */
    public static PcmSource to(int rateHz, PcmSource source) {
        return source.rateHz() == rateHz ? source : new Resampler(source, rateHz);
    }

    @Override
    public int rateHz() {
        return rateHz;
    }

    @Override
    public long length() {
        return (source.length() * rateHz + source.rateHz() - 1) / source.rateHz();
    }

    @Override
    public void read(long start, float[] into, int count) {
        if (count == 0) {
            return;
        }
        long first = Math.max(0, (long) Math.floor(place(start) - reach));
        long last = Math.min(source.length(), (long) Math.ceil(place(start + count - 1) + reach) + 1);
        if (window.length < last - first) {
            window = new float[(int) (last - first)];
        }
        source.read(first, window, (int) (last - first));
        for (int i = 0; i < count; i++) {
            long whole = Math.floorDiv((start + i) * source.rateHz(), (long) rateHz);
            double part = (double) Math.floorMod((start + i) * source.rateHz(), (long) rateHz) / rateHz;
            long low = Math.max(first, whole - (long) reach);
            long high = Math.min(last - 1, whole + (long) reach + 1);
            double sum = 0;
            for (long input = low; input <= high; input++) {
                double at = Math.abs(input - whole - part) * scale * STEPS;
                int step = (int) at;
                if (step < KERNEL.length - 1) {
                    double value = KERNEL[step] + (at - step) * (KERNEL[step + 1] - KERNEL[step]);
                    sum += window[(int) (input - first)] * value;
                }
            }
            into[i] = (float) (sum * scale);
        }
    }

    private double place(long output) {
        return (double) output * source.rateHz() / rateHz;
    }

    private static double[] kernel() {
        double[] values = new double[CROSSINGS * STEPS + 2];
        double whole = bessel(KAISER_BETA);
        for (int i = 0; i < values.length; i++) {
            double t = (double) i / STEPS;
            double edge = t / CROSSINGS;
            double shape = edge >= 1 ? 0 : bessel(KAISER_BETA * Math.sqrt(1 - edge * edge)) / whole;
            values[i] = (t == 0 ? 1 : Math.sin(Math.PI * t) / (Math.PI * t)) * shape;
        }
        return values;
    }

    /** The modified Bessel function of the first kind, order 0. */
    private static double bessel(double x) {
        double sum = 1;
        double term = 1;
        for (int k = 1; term > 1e-18 * sum; k++) {
            term *= x / (2 * k) * (x / (2 * k));
            sum += term;
        }
        return sum;
    }
}
