package org.palmtop.core.media;

/** The Fourier transform of real samples in double precision: radix 2, or by the sum itself for other lengths. */
final class RealTransform {
    private final int length;
    private final boolean isPowerOfTwo;
    private final double[] cosines;
    private final double[] sines;
    private final double[] real;
    private final double[] imaginary;

    RealTransform(int length) {
        this.length = length;
        isPowerOfTwo = Integer.bitCount(length) == 1;
        cosines = new double[length];
        sines = new double[length];
        for (int i = 0; i < length; i++) {
            cosines[i] = Math.cos(2 * Math.PI * i / length);
            sines[i] = -Math.sin(2 * Math.PI * i / length);
        }
        real = new double[length];
        imaginary = new double[length];
    }

    /** Squared magnitudes of the bins 0..length/2; the magnitude is rounded to single precision first, as numpy does. */
    void power(double[] samples, float[] power) {
        if (isPowerOfTwo) {
            radixTwo(samples);
        }
        for (int bin = 0; bin <= length / 2; bin++) {
            if (!isPowerOfTwo) {
                directSum(samples, bin);
            }
            float magnitude = (float) Math.sqrt(real[bin] * real[bin] + imaginary[bin] * imaginary[bin]);
            power[bin] = magnitude * magnitude;
        }
    }

    private void radixTwo(double[] samples) {
        int shift = Integer.numberOfLeadingZeros(length) + 1;
        for (int i = 0; i < length; i++) {
            real[length == 1 ? 0 : Integer.reverse(i) >>> shift] = samples[i];
            imaginary[i] = 0;
        }
        for (int size = 2; size <= length; size *= 2) {
            int step = length / size;
            for (int start = 0; start < length; start += size) {
                for (int i = 0; i < size / 2; i++) {
                    int even = start + i;
                    int odd = even + size / 2;
                    double turnReal = cosines[i * step];
                    double turnImaginary = sines[i * step];
                    double oddReal = real[odd] * turnReal - imaginary[odd] * turnImaginary;
                    double oddImaginary = real[odd] * turnImaginary + imaginary[odd] * turnReal;
                    real[odd] = real[even] - oddReal;
                    imaginary[odd] = imaginary[even] - oddImaginary;
                    real[even] += oddReal;
                    imaginary[even] += oddImaginary;
                }
            }
        }
    }

    private void directSum(double[] samples, int bin) {
        double sumReal = 0;
        double sumImaginary = 0;
        for (int i = 0; i < length; i++) {
            int turn = (int) ((long) i * bin % length);
            sumReal += samples[i] * cosines[turn];
            sumImaginary += samples[i] * sines[turn];
        }
        real[bin] = sumReal;
        imaginary[bin] = sumImaginary;
    }
}
