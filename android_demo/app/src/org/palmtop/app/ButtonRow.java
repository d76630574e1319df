package org.palmtop.app;

import android.content.res.Resources;
import android.view.View;
import android.view.ViewGroup;
import android.widget.LinearLayout;

/** Buttons beside one another; below one another where the user's font leaves no room for their words. */
final class ButtonRow {
    private static final float LARGE_FONT = 1.3f;
    private static final int GAP_DP = 8;

    private ButtonRow() {}

    static void arrange(View screen) {
        Resources resources = screen.getResources();
        if (resources.getConfiguration().fontScale <= LARGE_FONT) {
            return;
        }
        LinearLayout row = (LinearLayout) screen.findViewById(R.id.buttons);
        row.setOrientation(LinearLayout.VERTICAL);
        int gap = Math.round(GAP_DP * resources.getDisplayMetrics().density);
        for (int i = 0; i < row.getChildCount(); i++) {
            LinearLayout.LayoutParams place = new LinearLayout.LayoutParams(
                    ViewGroup.LayoutParams.MATCH_PARENT, ViewGroup.LayoutParams.WRAP_CONTENT);
            place.topMargin = gap;
            row.getChildAt(i).setLayoutParams(place);
        }
    }
}
