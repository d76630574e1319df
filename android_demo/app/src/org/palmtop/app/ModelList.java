package org.palmtop.app;

import android.content.Context;
import android.view.LayoutInflater;
import android.view.View;
import android.view.ViewGroup;
import android.widget.BaseAdapter;
import android.widget.TextView;
import java.io.File;
import java.util.ArrayList;
import java.util.List;
import org.palmtop.app.logic.ModelShelf;
import org.palmtop.app.logic.Sizes;

/** The models on the phone as rows of the list. */
final class ModelList extends BaseAdapter {
    /** Listener for the buttons of a row. */
    interface Listener {
        void onUse(ModelShelf.Model model);

        void onDetails(ModelShelf.Model model);

        void onDelete(ModelShelf.Model model);
    }

    private final Context context;
    private final Listener listener;
    private List<ModelShelf.Model> models = new ArrayList<ModelShelf.Model>();
    private File used;

    ModelList(Context context, Listener listener) {
        this.context = context;
        this.listener = listener;
    }

    void show(List<ModelShelf.Model> now, File inUse) {
        models = now;
        used = inUse;
        notifyDataSetChanged();
    }

    @Override
    public int getCount() {
        return models.size();
    }

    @Override
    public ModelShelf.Model getItem(int position) {
        return models.get(position);
    }

    @Override
    public long getItemId(int position) {
        return position;
    }

    @Override
    public View getView(int position, View old, ViewGroup parent) {
        View row = old;
        if (row == null) {
            row = LayoutInflater.from(context).inflate(R.layout.item_model, parent, false);
            ButtonRow.arrange(row);
        }
        final ModelShelf.Model model = models.get(position);
        boolean isUsable = model.bundle != null;
        boolean isUsed = model.folder.equals(used);
        String size = Sizes.text(model.sizeBytes);
        text(row, R.id.name, model.name);
        text(row, R.id.facts, isUsed
                ? context.getString(R.string.models_line, size, context.getString(R.string.models_used))
                : size);
        TextView trouble = text(row, R.id.trouble, isUsable ? "" : Words.of(context, model.trouble, model.detail));
        trouble.setVisibility(isUsable ? View.GONE : View.VISIBLE);
        button(row, R.id.use, model, isUsable && !isUsed);
        button(row, R.id.details, model, isUsable);
        button(row, R.id.delete, model, true);
        return row;
    }

    private TextView text(View row, int id, String words) {
        TextView view = (TextView) row.findViewById(id);
        view.setText(words);
        return view;
    }

    private void button(View row, final int id, final ModelShelf.Model model, boolean isThere) {
        TextView button = (TextView) row.findViewById(id);
        button.setVisibility(isThere ? View.VISIBLE : View.GONE);
        button.setContentDescription(button.getText() + ", " + model.name); // three rows have three "Delete"
        button.setOnClickListener(new View.OnClickListener() {
            @Override
            public void onClick(View view) {
                if (id == R.id.use) {
                    listener.onUse(model);
                } else if (id == R.id.details) {
                    listener.onDetails(model);
                } else {
                    listener.onDelete(model);
                }
            }
        });
    }
}
