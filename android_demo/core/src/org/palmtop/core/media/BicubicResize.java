package org.palmtop.core.media;

/**
 * Bicubic resize that antialiases when it shrinks, as Pillow's on 8 bits: weights of 22 bits behind the point, rounded
 * and clipped between the passes.
 *
 * <p>Source: Pillow, src/libImaging/Resample.c (precompute_coeffs, normalize_coeffs_8bpc).
 */
final class BicubicResize {
    private static final int PRECISION = 22;
    private static final double A = -0.5;
    private final int[] first;
    private final int[][] weights;

    BicubicResize(int sizeIn, int sizeOut) {
        double scale = (double) sizeIn / sizeOut;
        double filterScale = Math.max(scale, 1.0);
        double support = 2.0 * filterScale;
        double step = 1.0 / filterScale;
        first = new int[sizeOut];
        weights = new int[sizeOut][];
        for (int out = 0; out < sizeOut; out++) {
            double centre = (out + 0.5) * scale;
            first[out] = Math.max((int) (centre - support + 0.5), 0);
            int last = Math.min((int) (centre + support + 0.5), sizeIn);
            double[] shares = new double[last - first[out]];
            double sum = 0;
            for (int tap = 0; tap < shares.length; tap++) {
                shares[tap] = filter((tap + first[out] - centre + 0.5) * step);
                sum += shares[tap];
            }
            weights[out] = new int[shares.length];
            for (int tap = 0; tap < shares.length; tap++) {
                double share = (sum == 0 ? shares[tap] : shares[tap] / sum) * (1 << PRECISION);
                weights[out][tap] = (int) (share < 0 ? share - 0.5 : share + 0.5);
            }
        }
    }

    /** One row of a plane: {@code into[at..]} from {@code line}. */
    void row(byte[] line, byte[] into, int at) {
        for (int out = 0; out < first.length; out++) {
            int sum = 1 << PRECISION - 1;
            int[] taps = weights[out];
            for (int tap = 0; tap < taps.length; tap++) {
                sum += (line[first[out] + tap] & 255) * taps[tap];
            }
            into[at + out] = level(sum);
        }
    }

    /** One output row from the rows of a plane of this width. */
    void column(byte[] plane, int width, int out, byte[] into, int at) {
        int[] taps = weights[out];
        int[] sums = new int[width];
        java.util.Arrays.fill(sums, 1 << PRECISION - 1);
        for (int tap = 0; tap < taps.length; tap++) {
            int start = (first[out] + tap) * width;
            for (int x = 0; x < width; x++) {
                sums[x] += (plane[start + x] & 255) * taps[tap];
            }
        }
        for (int x = 0; x < width; x++) {
            into[at + x] = level(sums[x]);
        }
    }

    private static byte level(int sum) {
        return (byte) Math.max(0, Math.min(255, sum >> PRECISION));
    }

    private static double filter(double place) {
        double x = Math.abs(place);
        if (x < 1.0) {
            return ((A + 2.0) * x - (A + 3.0)) * x * x + 1;
        }
        return x < 2.0 ? (((x - 5) * x + 8) * x - 4) * A : 0.0;
    }
}
