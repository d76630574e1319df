package org.palmtop.core.media;

/**
 * Bilinear resize that antialiases when it shrinks, as torchvision's on uint8: 15-bit integer weights, rounded between
 * the passes. In whole numbers, so equal to torch at every scale; {@code processor/resize.py} may be a grey level away
 * beyond 4x.
 */
final class TriangleResize {
    private final int[] first;
    private final int[][] weights;
    private final int precision;

    TriangleResize(int sizeIn, int sizeOut) {
        double ratio = (double) sizeIn / sizeOut;
        double support = Math.max(ratio, 1.0);
        first = new int[sizeOut];
        double[][] shares = new double[sizeOut][];
        double largest = 0;
        for (int out = 0; out < sizeOut; out++) {
            double centre = ratio * (out + 0.5);
            first[out] = Math.max((int) (centre - support + 0.5), 0);
            int last = Math.min((int) (centre + support + 0.5), sizeIn);
            double[] share = new double[last - first[out]];
            double sum = 0;
            for (int tap = 0; tap < share.length; tap++) {
                share[tap] = Math.max(1.0 - Math.abs((first[out] + tap - centre + 0.5) / support), 0.0);
                sum += share[tap];
            }
            for (int tap = 0; tap < share.length; tap++) {
                share[tap] /= sum;
                largest = Math.max(largest, share[tap]);
            }
            shares[out] = share;
        }
        precision = precision(largest);
        weights = new int[sizeOut][];
        for (int out = 0; out < sizeOut; out++) {
            weights[out] = new int[shares[out].length];
            for (int tap = 0; tap < weights[out].length; tap++) {
                weights[out][tap] = (int) Math.floor(shares[out][tap] * (1 << precision) + 0.5);
            }
        }
    }

    /** One row of a plane: {@code into[at..]} from {@code line[from..]}. */
    void row(byte[] line, int from, byte[] into, int at) {
        for (int out = 0; out < first.length; out++) {
            int sum = 1 << precision >> 1;
            int[] taps = weights[out];
            for (int tap = 0; tap < taps.length; tap++) {
                sum += (line[from + first[out] + tap] & 255) * taps[tap];
            }
            into[at + out] = (byte) (sum >> precision);
        }
    }

    /** One output row from the rows of a plane of this width. */
    void column(byte[] plane, int width, int out, byte[] into, int at) {
        int[] taps = weights[out];
        int[] sums = new int[width];
        java.util.Arrays.fill(sums, 1 << precision >> 1);
        for (int tap = 0; tap < taps.length; tap++) {
            int start = (first[out] + tap) * width;
            for (int x = 0; x < width; x++) {
                sums[x] += (plane[start + x] & 255) * taps[tap];
            }
        }
        for (int x = 0; x < width; x++) {
            into[at + x] = (byte) (sums[x] >> precision);
        }
    }

    /** Bits behind the point such that the largest weight still fits into 16 bits. */
    private static int precision(double largest) {
        for (int bits = 0; bits < 22; bits++) {
            if ((int) (0.5 + largest * (1 << bits + 1)) >= 1 << 15) {
                return bits;
            }
        }
        return 22;
    }
}
