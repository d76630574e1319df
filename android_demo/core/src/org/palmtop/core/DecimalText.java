package org.palmtop.core;

import java.math.BigDecimal;
import java.math.RoundingMode;

/** Numbers with a fixed count of decimals. */
public final class DecimalText {
    private DecimalText() {}

    /** A number with so many digits behind the point, halves to the even digit: Java's own formats round them up. */
    public static String fixed(double value, int digits) {
        return new BigDecimal(value).setScale(digits, RoundingMode.HALF_EVEN).toPlainString();
    }
}
