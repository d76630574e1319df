package org.palmtop.core.media;

/** Four input positions and weights for every output of torch's bicubic resize (a = -0.75, no antialiasing). */
final class CubicTaps {
    private static final double A = -0.75;

    final int[][] places;
    final float[][] weights;

    CubicTaps(int sizeIn, int sizeOut) {
        places = new int[sizeOut][4];
        weights = new float[sizeOut][4];
        for (int out = 0; out < sizeOut; out++) {
            double source = (out + 0.5) * ((double) sizeIn / sizeOut) - 0.5;
            double floor = Math.floor(source);
            double near = source - floor;
            double[] distances = {near + 1, near, 1 - near, 2 - near};
            for (int tap = 0; tap < 4; tap++) {
                double d = distances[tap];
                double inner = ((A + 2) * d - (A + 3)) * d * d + 1;
                double outer = ((A * d - 5 * A) * d + 8 * A) * d - 4 * A;
                places[out][tap] = Math.max(0, Math.min((int) floor + tap - 1, sizeIn - 1));
                weights[out][tap] = (float) (d <= 1 ? inner : outer);
            }
        }
    }
}
