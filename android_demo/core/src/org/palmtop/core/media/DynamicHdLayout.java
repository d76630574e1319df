package org.palmtop.core.media;

import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.List;
import org.palmtop.core.PalmtopException;
import org.palmtop.core.bundle.ImageSpec;

/** Position of an image on its grid of tiles, from its size, by the rules of {@code processor/images/dynamic_hd.py}. */
public final class DynamicHdLayout {
    private static final int MIN_SIDE = 10;

    public final int rows;
    public final int columns;
    /** The image is resized to this; the rest of the grid is white. */
    public final int width;
    public final int height;
    /** Rows and columns of pooled features that are kept, over the whole grid. */
    public final int usefulRows;
    public final int usefulColumns;
    private final ImageSpec.DynamicHd spec;
    private final int maskedRows;
    private final int maskedColumns;

    public DynamicHdLayout(int imageWidth, int imageHeight, ImageSpec.DynamicHd spec) {
        int side = spec.cropSize;
        int wide = (imageWidth + side - 1) / side;
        int high = (imageHeight + side - 1) / side;
        if ((long) wide * high > spec.maxTiles) {
            int[] closest = closestGrid(imageWidth, imageHeight, side, spec.maxTiles);
            wide = closest[0];
            high = closest[1];
        }
        double ratioWidth = (double) (side * wide) / imageWidth;
        double ratioHeight = (double) (side * high) / imageHeight;
        int newWidth = side * wide;
        int newHeight = side * high;
        if (ratioWidth < ratioHeight) {
            newHeight = (int) (imageHeight * ratioWidth);
        } else {
            newWidth = (int) (imageWidth * ratioHeight);
        }
        if (Math.min(newWidth, newHeight) < MIN_SIDE) {
            throw PalmtopException.input("the image is too narrow: found " + imageWidth + " x " + imageHeight
                    + " pixels, which become " + newWidth + " x " + newHeight + ", expected at least " + MIN_SIDE
                    + " on each side");
        }
        this.spec = spec;
        rows = high;
        columns = wide;
        width = newWidth;
        height = newHeight;
        maskedRows = (side * high - newHeight) / spec.patchSize;
        maskedColumns = (side * wide - newWidth) / spec.patchSize;
        usefulRows = useful(rows, maskedRows);
        usefulColumns = useful(columns, maskedColumns);
    }

    /** Tiles and the global view. */
    public int views() {
        return 1 + rows * columns;
    }

    /** Feature rows of the image: the number of its ids in the prompt. */
    public int featureRows() {
        return usefulRows * (usefulColumns + 1) + 1 + spec.pooled() * (spec.pooled() + 1);
    }

    /** Whether a patch of a view holds anything but padding; view 0 is the global one. */
    public boolean isVisible(int view, int patchRow, int patchColumn) {
        if (view == 0) {
            return true;
        }
        int row = (view - 1) / columns * spec.patches() + patchRow;
        int column = (view - 1) % columns * spec.patches() + patchColumn;
        return row < rows * spec.patches() - maskedRows && column < columns * spec.patches() - maskedColumns;
    }

    /**
     * The encoder output of each feature row: sub-images, global separator, global view. Outputs are numbered by
     * view, row and column of the pooled features; behind them come the row separator and the global separator.
     */
    public int[] featureOrder() {
        int pooled = spec.pooled();
        int separator = views() * pooled * pooled;
        int[] order = new int[featureRows()];
        int at = 0;
        for (int row = 0; row < usefulRows; row++) {
            for (int column = 0; column < usefulColumns; column++) {
                int view = 1 + row / pooled * columns + column / pooled;
                order[at++] = (view * pooled + row % pooled) * pooled + column % pooled;
            }
            order[at++] = separator;
        }
        order[at++] = separator + 1;
        for (int row = 0; row < pooled; row++) {
            for (int column = 0; column < pooled; column++) {
                order[at++] = row * pooled + column;
            }
            order[at++] = separator;
        }
        return order;
    }

    /** Of every tile's patches each second one counts, from the first. */
    private int useful(int tiles, int masked) {
        int visible = tiles * spec.patches() - masked;
        int sum = 0;
        for (int tile = 0; tile < tiles; tile++) {
            for (int patch = 0; patch < spec.patches(); patch += 2) {
                sum += tile * spec.patches() + patch < visible ? 1 : 0;
            }
        }
        return sum;
    }

    /** (columns, rows) of the nearest shape; of equally near ones the larger, if the image half fills it. */
    private static int[] closestGrid(int width, int height, int side, int maxTiles) {
        List<int[]> grids = new ArrayList<int[]>();
        for (int columns = 1; columns <= maxTiles; columns++) {
            for (int rows = 1; columns * rows <= maxTiles; rows++) {
                grids.add(new int[] {columns, rows});
            }
        }
        Collections.sort(grids, new Comparator<int[]>() {
            @Override
            public int compare(int[] left, int[] right) {
                return left[0] * left[1] - right[0] * right[1]; // the sort is stable
            }
        });
        int[] best = {1, 1};
        double bestDistance = Double.POSITIVE_INFINITY;
        for (int[] grid : grids) {
            double distance = Math.abs((double) width / height - (double) grid[0] / grid[1]);
            boolean isFilled = (double) width * height > 0.5 * side * side * grid[0] * grid[1];
            if (distance < bestDistance || distance == bestDistance && isFilled) {
                best = grid;
                bestDistance = distance;
            }
        }
        return best;
    }
}
